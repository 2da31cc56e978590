"""How well weights still explain clips that their run did not train on: the loss, clip by clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ttstrain import registry
from ttstrain.checkpoint import run_folder
from ttstrain.checkpoint.meta import read_meta
from ttstrain.contract.data import Batch, Clip
from ttstrain.contract.task import Task
from ttstrain.data.cache import FeatureCache
from ttstrain.data.location import cache_root
from ttstrain.data.manifest import read_manifest
from ttstrain.errors import DataError
from ttstrain.infer.load import LoadedModel
from ttstrain.judge.evaluate import Contestant, clips_of_data, run_of
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose_run
from ttstrain.train.evaluation_loop import Pieces, evaluate_batches, mean_losses, weighted

HELD_OUT = "replay_held_out"
TRAINED_ON = ("train", "held_out", "replay")  # the run's own speech: its loss says nothing of what is forgotten


@dataclass(slots=True)
class Retention:
    """Clips to measure, and their losses under each set of weights."""

    clips: Sequence[Clip]
    source: str  # for people
    batches: Sequence[Pieces]  # one clip each
    losses: dict[str, list[float | None]] = field(default_factory=dict)  # key of a contestant -> of each clip
    notes: tuple[str, ...] = ()

    def measure(self, contestant: Contestant, model: LoadedModel) -> None:
        """Measure the loss of every clip, with the same noise for every contestant."""
        self.losses[contestant.key] = clip_losses(model.task, self.batches)


def open_retention(checkpoint: Path, data: str) -> Retention | None:
    """Choose the clips: of `data`, else those that the run held out of its replay data; None where there are none.

    At most `eval.max_clips` of the run's recipe are used, evenly spread over the data. Raises DataError where none of
    `data` is left.
    """
    run = run_of(checkpoint)
    if run is None:
        return None
    recipe = parse(compose_run(run, [], origins=run_folder.origins(run)))
    clips, notes = (_of_data(data, run)) if data else (_listed(run, HELD_OUT), [])
    if not clips:
        return None
    clips = clips[:: -(-len(clips) // recipe.eval.max_clips)]
    meta = read_meta(checkpoint)
    spec = registry.find_task(meta.task)
    task_data = spec.data(spec.read_model(meta.model))
    cache = FeatureCache(cache_root(recipe.data.cache_dir) / "features", task_data, place="disk")
    failed = cache.build(clips).failed
    notes += [f"retention: {clip} is left out: {why}" for clip, why in failed.items()]
    clips = [clip for clip in clips if clip.id not in failed]
    if not clips:
        raise DataError("no clip for retention has features", hint="give other recordings with `--retention`")
    batches = [[task_data.collate([task_data.example(clip, cache.get(clip))])] for clip in clips]
    return Retention(clips, data or f"held out of the replay data of {run.name}", batches, notes=tuple(notes))


def clip_losses(task: Task, batches: Sequence[Pieces]) -> list[float | None]:
    """Return the loss of each batch; None for one whose loss was not computed."""
    device = next(task.parameters()).device

    def loss(batch: Batch, generator: torch.Generator) -> float | None:
        return mean_losses([weighted(task.evaluate(batch, generator), batch.weight)], device=device).get("total")

    return evaluate_batches(task, batches, loss, device=device)


def _of_data(data: str, run: Path) -> tuple[list[Clip], list[str]]:
    """List the clips of a data set without those that are the run's own."""
    clips = clips_of_data(data)
    own = {clip.digest for name in TRAINED_ON for clip in _listed(run, name) if clip.digest}
    others = [clip for clip in clips if clip.digest not in own]
    if not others:
        raise DataError(
            f"`{data}` holds nothing but the run's own recordings", hint="`--retention` needs recordings of others"
        )
    left = len(clips) - len(others)
    return others, [f"retention: {left} clips of `{data}` are the run's own and are left out"] if left else []


def _listed(run: Path, name: str) -> list[Clip]:
    file = run / "data" / f"{name}.jsonl"
    return read_manifest(file) if file.is_file() else []
