"""Shipped recipes at their real size, over clips that nobody recorded: their texts and lengths are all that is used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ttstrain import registry
from ttstrain.contract.data import Clip
from ttstrain.contract.model import ResolvedRecipe
from ttstrain.data import sampler
from ttstrain.plan.plan import DataFacts, Plan
from ttstrain.plan.resolve import parse, resolve
from ttstrain.recipe.compose import compose
from ttstrain.rehearsal.step import Format, Rehearsal, rehearsing

WORDS = "the quick brown fox jumps over the lazy dog and runs on "
LETTERS_PER_S = 14
SAMPLE_RATE = 32_000
NOT_FETCHED = {  # what a recipe names beside weights, and a rehearsal needs none of
    "flow": (),
    "gpt_sovits": ("model.features={hubert: 'package:toy', bert: 'package:toy', quantizer: 'package:toy'}",),
    "orpheus": ("model.rows.tokenizer=package:toy", "model.rows.codec=package:toy"),
}


def make_clips(count: int, *, seconds: float) -> list[Clip]:
    """Make clips of one length, each with the text that fits it."""
    letters = int(LETTERS_PER_S * seconds)
    text = (WORDS * (1 + letters // len(WORDS)))[:letters]
    return [
        Clip(id=str(number), path=Path(f"{number}.wav"), text=text, duration_s=seconds, sample_rate=SAMPLE_RATE)
        for number in range(count)
    ]


def plan_of(name: str, overrides: Sequence[str] = (), *, seconds: float) -> tuple[Plan, list[Clip]]:
    """Plan a recipe over clips of one length, of which one micro-batch takes as many as it can hold."""
    recipe = _recipe(name, overrides)
    planner = registry.planner_of(recipe)
    (clip,) = make_clips(1, seconds=seconds)
    length = planner.length(clip)
    batch = min(recipe.data.batch_frames // length, recipe.data.max_clips)
    clips = make_clips(3 * batch, seconds=seconds)
    lengths = [length] * len(clips)
    facts = DataFacts(
        num_clips=len(clips),
        hours=10.0,
        num_holdout=2,
        skipped={},
        fixed={},
        frames=tuple(lengths),
        batches_per_epoch=3000,
        padding_share=0.0,
    )
    plan = resolve(recipe, origins={}, facts=facts, source_name=name)
    (found,) = sampler.heaviest(
        lengths, budget=recipe.data.batch_frames, max_clips=recipe.data.max_clips, packed=planner.packed
    )
    return plan, [clips[i] for i in found]


def _recipe(name: str, overrides: Sequence[str]) -> ResolvedRecipe:
    plain = ["sample.every=null", "checkpoint.best=null"]
    task = parse(compose(name, plain)).task
    return parse(compose(name, [*plain, *NOT_FETCHED[task.split("/")[0]], *overrides]))


def rehearse_recipe(
    name: str, overrides: Sequence[str], cells: Sequence[tuple[Format, float]], seconds: float
) -> list[tuple[int, Rehearsal]]:
    """Rehearse a recipe in each of these formats, at that share of its budget, with one net.

    Returns for each the bytes that its plan counts on the device, and what the rehearsed step takes.
    """
    budget = _recipe(name, overrides).data.batch_frames
    plans = [
        plan_of(
            name,
            [*overrides, f"train.precision={precision}", f"data.batch_frames={round(share * budget)}"],
            seconds=seconds,
        )
        for precision, share in cells
    ]
    assert len({min(plan.accumulate, 2) for plan, _ in plans}) == 1  # one net's steps stand for all
    with rehearsing(plans[0][0]) as take:
        found = [take(clips, precision) for (_, clips), (precision, _) in zip(plans, cells, strict=True)]
    return [(plan.memory_bytes, step) for (plan, _), step in zip(plans, found, strict=True)]
