"""The run that is proven: the recipe's own model and base on a few of its clips, in a folder that is thrown away."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ttstrain import registry
from ttstrain.checkpoint.merging import open_for
from ttstrain.contract.checkpoint import OpenedCheckpoint
from ttstrain.contract.data import Clip
from ttstrain.contract.model import ResolvedRecipe
from ttstrain.contract.task import AddsTokens
from ttstrain.data.audit import AuditResult, audit
from ttstrain.data.readers import read_rows
from ttstrain.data.split import DataSplit
from ttstrain.errors import DataError, OutOfMemoryError, RecipeError
from ttstrain.modules import lora
from ttstrain.optim.settings import check_installed
from ttstrain.plan.estimate import ACTIVATIONS
from ttstrain.plan.facts import Findings, count_frames, review_data
from ttstrain.plan.plan import Plan
from ttstrain.plan.resolve import parse, resolve
from ttstrain.recipe.compose import Composed
from ttstrain.recipe.schema import Constant, EvalConfig, SampleConfig, TrackingConfig
from ttstrain.runs.sessions import write_description
from ttstrain.tracking.tracker import Trackers
from ttstrain.train import build
from ttstrain.train.device import choose_device
from ttstrain.train.distributed import Ranks
from ttstrain.train.faster import check_machine
from ttstrain.train.prepare import Prepared, ShowProgress, look_again, no_progress, open_cache
from ttstrain.train.run import Run

MOST_ROWS = 48  # of the data that are read; the first of each stretch of equal length
MOST_CLIPS = 5
SHORTEST_S = 1.5  # a clip of a few frames proves little
STEPS = 1_000_000  # planned, so that no schedule ends and no average is over a handful of steps
ROOM = 0.8  # share of the free memory that may be filled


@dataclass(frozen=True, slots=True)
class Material:
    """A run on a few clips, its weights still newly initialized, and the base that it starts from."""

    run: Run
    base: OpenedCheckpoint | None
    clips: Sequence[Clip]  # the first is the one that is learned
    batches: Sequence[Any]  # one for each clip
    together: Any  # one batch of two clips or more; of one where there is no other
    prepared: Prepared
    first_step: int  # before it only new embeddings would train


def make_material(composed: Composed, place: Path, *, show: ShowProgress = no_progress) -> Material:
    """Read a few clips of the recipe's data and build its run in `place`.

    Raises what a run of the recipe would, and OutOfMemoryError where the model's training state does not fit.
    """
    recipe = quiet(parse(composed), place)
    lora.check_installed(recipe.lora)
    check_installed(recipe.optim)
    device = choose_device(recipe.train.device, tf32=recipe.train.tf32)
    check_machine(recipe.train, device)
    base = None if recipe.base is None else open_for(recipe)
    prepared = _prepare(recipe, device, show)
    plan = resolve(recipe, origins=composed.origins, facts=prepared.facts, source_name=composed.name)
    _check_memory(plan, device)
    write_description(place, plan)
    run = build.build(plan, prepared, folder=place, device=device, ranks=Ranks(), trackers=Trackers())
    first = run.task.embeddings_first() if isinstance(run.task, AddsTokens) else None
    clips = list(prepared.train)
    return Material(
        run=run,
        base=base,
        clips=clips,
        batches=[collate(prepared, [clip]) for clip in clips],
        together=collate(prepared, clips[: _fitting(prepared, clips, recipe.data.batch_frames)]),
        prepared=prepared,
        first_step=0 if first is None else first.steps,
    )


def collate(prepared: Prepared, clips: Sequence[Clip]) -> Any:
    """Make one batch of clips."""
    data = prepared.task_data
    return data.collate([data.example(clip, prepared.cache.get(clip)) for clip in clips])


def quiet(recipe: ResolvedRecipe, place: Path) -> ResolvedRecipe:
    """Return the recipe as it is proven: one part at its peak LR without warmup; nothing is measured or tracked.

    Adapters are proven over the base's own weights: those in 4 bits are others, and equal no file and no export.
    """
    schedule = Constant(warmup_steps=0)
    groups = [rule.model_copy(update={"schedule": None}) for rule in recipe.optim.groups]
    data = {"workers": 0, "holdout": 0, "replay": None, "features": "memory"}
    train = {"steps": STEPS, "epochs": None, "accumulate": 1, "step_frames": None, "early_stop": None}
    checkpoint = {"best": None, "background": False, "every": STEPS, "keep_every": None}
    return recipe.model_copy(
        update={
            "name": None,
            "run_dir": str(place.parent),
            "lora": None if recipe.lora is None else recipe.lora.model_copy(update={"base": "full"}),
            "stages": [],
            "data": recipe.data.model_copy(update=data),
            "optim": recipe.optim.model_copy(update={"schedule": schedule, "groups": groups}),
            "train": recipe.train.model_copy(update=train),
            "ema": recipe.ema.model_copy(update={"start_step": 0}),
            "guard": recipe.guard.model_copy(update={"spike": None}),
            "eval": EvalConfig(every=None),
            "sample": SampleConfig(every=None),
            "checkpoint": recipe.checkpoint.model_copy(update=checkpoint),
            "tracking": TrackingConfig(wandb="off"),
        }
    )


def _prepare(recipe: ResolvedRecipe, device: torch.device, show: ShowProgress) -> Prepared:
    cache = open_cache(recipe, place="memory", device=device)
    with show("checking recordings"):
        result = review_data(recipe, _audit(recipe))
    wanted = _choose(result.clips, recipe)
    with show("computing features") as progress:
        report = cache.build(wanted, progress=progress)
    clips = look_again(replace(result, clips=wanted), cache, report.failed).clips
    if not clips:
        why = next(iter(report.failed.values()), "the family refuses each of them")
        raise DataError(f"none of the {len(wanted)} clips that were tried can be used: {why}")
    split = DataSplit(train=list(clips), held_out=[], replay=[], retained=[])
    return Prepared(
        train=split.train,
        held_out=[],
        task_data=cache.task_data,
        cache=cache,
        workers=0,
        facts=count_frames(recipe, split, findings=Findings()),
        audited=None,
    )


def _audit(recipe: ResolvedRecipe) -> AuditResult:
    data = recipe.data
    if data.path is None:
        raise RecipeError(
            "`data.path` is not set", hint="give a folder of recordings or a metadata file with `--data PATH`"
        )
    table = read_rows(data.path, data.format, cache_dir=data.cache_dir)
    stride = -(-len(table.rows) // MOST_ROWS) or 1
    return audit(replace(table, rows=table.rows[::stride]), data)


def _choose(clips: Sequence[Clip], recipe: ResolvedRecipe) -> list[Clip]:
    """Take the shortest clips that are long enough and fit a micro-batch, of as many texts."""
    planner = registry.planner_of(recipe)
    fitting = [clip for clip in clips if planner.length(clip) <= recipe.data.batch_frames]
    if not fitting:
        raise RecipeError(
            f"no clip fits a micro-batch: `data.batch_frames` is {recipe.data.batch_frames:,}",
            hint=f"`data.batch_frames={max(map(planner.length, clips))}` is enough for the clips that were tried",
        )
    ordered = sorted(fitting, key=lambda clip: (clip.duration_s < SHORTEST_S, clip.duration_s, clip.id))
    by_text = {clip.text: clip for clip in reversed(ordered)}
    return sorted(by_text.values(), key=ordered.index)[:MOST_CLIPS]


def _fitting(prepared: Prepared, clips: Sequence[Clip], budget: int) -> int:
    """Return how many clips fit one micro-batch, two of them at least where there are two."""
    lengths = [prepared.task_data.length(clip) for clip in clips]
    longest = [max(lengths[: n + 1]) * (n + 1) for n in range(len(lengths))]
    return max(2, sum(size <= budget for size in longest[:3]))


def _check_memory(plan: Plan, device: torch.device) -> None:
    """Raise OutOfMemoryError where weights, gradients and optimizer state would not fit the free memory."""
    needed = plan.memory_bytes - plan.memory.get(ACTIVATIONS, 0)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _free_on_host()
    if needed <= ROOM * free:
        return
    raise OutOfMemoryError(
        f"nothing was proven: training this model takes {needed / 1e9:,.0f} GB before activations, and "
        f"{free / 1e9:,.0f} GB are free here",
        hint="prove it where it will be trained, or a small model of the same task: `ttstrain prove smoke/NAME`",
    )


def _free_on_host() -> int:
    """Return the bytes that programs can still get, what the page cache would give up included where Linux tells it."""
    meminfo = Path("/proc/meminfo")
    for line in meminfo.read_text(encoding="ascii").splitlines() if meminfo.is_file() else ():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
