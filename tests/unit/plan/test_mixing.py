"""A plan counts passes over the clips as the loader makes them, whatever is mixed among them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from ttstrain.data.mixture import Mixture
from ttstrain.families.orpheus.data_config import TextMix
from ttstrain.plan.mixing import clip_share
from ttstrain.plan.plan import Plan, StageFacts
from ttstrain.plan.render import plan_lines

MakePlan = Callable[..., Plan]
SCHEDULES = {
    "constant": [(0, 2)],
    "less than one": [(0, 0.3)],
    "default": [(0, 2), (0.5, 1), (1, 0)],
    "late": [(0, 0), (0.8, 0), (1, 5)],
    "none": [(0, 0)],
}
ORPHEUS = "task: orpheus\nextends: [models/orpheus_tiny]\n"
CLIPS_PER_EPOCH = 200  # micro-batches


class CountedClips:
    """A loader of clips that counts the micro-batches it is asked for."""

    batch_frames, max_clips, seed, rank, world_size, limit = 100, 10, 0, 0, 1, None

    def __init__(self) -> None:
        self.rounds = 0

    def next(self, micro_batches: int) -> list[Any]:
        self.rounds += micro_batches
        return [None] * micro_batches

    def ready(self, batch: Any) -> Any:
        return batch


class Auxiliary:
    name, packed, ids, lengths = "questions", True, ("q",), (10,)

    def __init__(self, ratio: Callable[[float], float]) -> None:
        self.ratio = ratio

    def batch(self, indices: Sequence[int]) -> Any:
        return None


def mix(points: Sequence[tuple[float, float]]) -> dict[str, Any]:
    return {"path": "q.jsonl", "schedule": [{"at": at, "ratio": ratio} for at, ratio in points]}


def yielded(plan: Plan, ratio: Callable[[float], float]) -> list[int]:
    """Read all of a plan's rounds through the loader's mixture; return the rounds of clips in each stage."""
    clips = CountedClips()
    mixture = Mixture(cast(Any, clips), Auxiliary(ratio), total_rounds=plan.steps * plan.accumulate)
    counts = []
    for stage in plan.stages:
        before = clips.rounds
        for _ in range(stage.steps):
            mixture.next(plan.accumulate)
        counts.append(clips.rounds - before)
    return counts


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("overrides", [("train.epochs=3",), ("train.epochs=2", "train.accumulate=4")])
def test_epochs_are_passes_over_the_clips(make_plan: MakePlan, name: str, overrides: tuple[str, ...]) -> None:
    text_mix = TextMix.model_validate(mix(SCHEDULES[name]))
    plan = plan_of(make_plan, text_mix, *overrides)
    (clips,) = yielded(plan, text_mix.ratio)
    wanted = (plan.recipe.train.epochs or 0) * CLIPS_PER_EPOCH
    assert wanted - 2 <= clips <= wanted + 2 + plan.accumulate
    assert plan.epochs == pytest.approx(clips / CLIPS_PER_EPOCH, abs=0.02)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_set_number_of_steps_is_told_in_the_passes_it_makes(make_plan: MakePlan, name: str) -> None:
    text_mix = TextMix.model_validate(mix(SCHEDULES[name]))
    plan = plan_of(make_plan, text_mix, "train.steps=500")
    assert plan.steps == 500
    (clips,) = yielded(plan, text_mix.ratio)
    assert plan.epochs == pytest.approx(clips / CLIPS_PER_EPOCH, abs=0.02)


def test_stages_count_their_own_passes_where_the_ratio_falls(make_plan: MakePlan) -> None:
    text_mix = TextMix.model_validate(mix(SCHEDULES["default"]))
    stages = "stages: [{name: all, epochs: 2}, {name: some, steps: 100}, {name: last, epochs: 3}]"
    sizes = (200, 120, 60)
    facts = tuple(StageFacts(num_clips=9, hours=0.1, num_holdout=1, batches_per_epoch=size) for size in sizes)
    plan = plan_of(make_plan, text_mix, recipe=stages, stages=facts)
    clips = yielded(plan, text_mix.ratio)
    assert clips[0] == pytest.approx(2 * 200, abs=3)
    assert plan.stages[1].steps == 100
    assert clips[2] == pytest.approx(3 * 60, abs=3)
    for stage, found, size in zip(plan.stages, clips, sizes, strict=True):
        assert stage.steps / stage.steps_per_epoch == pytest.approx(found / size, abs=0.03)


def test_the_plan_says_how_much_of_the_run_is_of_clips(make_plan: MakePlan) -> None:
    text_mix = TextMix.model_validate(mix(SCHEDULES["constant"]))
    lines = rendered(plan_of(make_plan, text_mix, "train.epochs=3"))
    assert "33.3 % of the micro-batches hold clips, the others examples without recordings" in lines
    assert "1,800 steps = 3.0 epochs of 600.0 steps" in lines
    alone = make_plan("train.epochs=3", head=ORPHEUS)
    assert "examples without recordings" not in rendered(alone)


def test_without_companions_every_round_is_of_clips() -> None:
    assert clip_share(lambda _: 0.0) == 1.0
    assert clip_share(lambda _: 3.0, start=0.2, end=0.4) == pytest.approx(0.25, rel=1e-12)


def plan_of(make_plan: MakePlan, text_mix: TextMix, *overrides: str, **other: Any) -> Plan:
    mixed = f"model.rows.text_mix={json.dumps(text_mix.model_dump(mode='json'))}"
    return make_plan(mixed, *overrides, head=ORPHEUS, batches_per_epoch=CLIPS_PER_EPOCH, **other)


def rendered(plan: Plan) -> str:
    return " ".join(" ".join(plan_lines(plan)).split())
