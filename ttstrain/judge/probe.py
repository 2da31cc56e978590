"""Choose between interpretations of a checkpoint with equal names and shapes by loss: `inspect-ckpt --probe`.

Every interpretation of the tensors is judged on the same few clips, with the same noise and times. The best one counts
only where the checkpoint does much better than a net that was never trained: such a net prefers small features.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ttstrain import registry
from ttstrain.checkpoint.upstream import open_checkpoint, resolve_base
from ttstrain.contract.checkpoint import Interpretation
from ttstrain.contract.data import Batch, Clip
from ttstrain.contract.family import TaskSpec
from ttstrain.contract.task import Mean, Task
from ttstrain.data.audio import read_clip
from ttstrain.data.audit import audit
from ttstrain.data.readers import read_rows
from ttstrain.errors import CheckpointError, UserError
from ttstrain.recipe.schema import DataConfig, TrainConfig
from ttstrain.tensors.loading import load_weights
from ttstrain.tensors.tensorfile import read_tree
from ttstrain.train.device import choose_device
from ttstrain.train.evaluation_loop import evaluate_batches
from ttstrain.train.prepare import ShowProgress, no_progress

NUM_CLIPS = 6
HANDY_S = (1.5, 8.0)  # long enough for a sentence, short enough for a CPU
LOOKED_AT = 8  # rows examined for each clip that is wanted
LEARNED = 0.5  # share of an untrained net's loss below which a checkpoint's losses count
SURE = 3.0  # standard errors by which the best has to be ahead of the next, clip by clip


@dataclass(frozen=True, slots=True)
class Judged:
    """An interpretation and how well the checkpoint does under it."""

    name: str
    settings: Mapping[str, Any]
    stated: bool
    loss: float  # mean over clips
    clips: Mapping[str, float]  # clip -> loss

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "settings": dict(self.settings),
            "stated": self.stated,
            "loss": self.loss,
            "clips": dict(self.clips),
        }


@dataclass(frozen=True, slots=True)
class Probe:
    """All interpretations, the best first, and the verdict."""

    path: str
    model: str
    interpretations: Sequence[Judged]
    untrained: float  # loss of a fresh net under the best interpretation
    margin: float  # relative difference of the next best's loss to the best's
    errors: float  # the margin in standard errors, over clips
    ahead: int  # number of clips on which the best has a lower loss than the next

    @property
    def best(self) -> Judged:
        return self.interpretations[0]

    @property
    def learned(self) -> bool:
        return self.best.loss < LEARNED * self.untrained

    @property
    def decided(self) -> bool:
        return self.learned and self.errors >= SURE and self.ahead == len(self.best.clips)

    @property
    def verdict(self) -> str | None:
        return self.best.name if self.decided else None

    @property
    def contradicted(self) -> bool:
        """Whether the file states another interpretation than the one with the lowest loss."""
        return self.decided and not self.best.stated and any(one.stated for one in self.interpretations)

    def to_json(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "model": self.model,
            "verdict": self.verdict,
            "margin": self.margin,
            "standard_errors": self.errors,
            "untrained": self.untrained,
            "contradicted": self.contradicted,
            "readings": [interpretation.to_json() for interpretation in self.interpretations],
        }


def probe(path: str, data: str, *, vocab: str | None = None, show: ShowProgress = no_progress) -> Probe:
    """Judge a checkpoint on a few clips under every interpretation of its tensors.

    Raises CheckpointError when there is nothing to choose between, UserError when the clips are too few.
    """
    opened = open_checkpoint(resolve_base(path))
    spec = registry.find_task(opened.task)
    interpretations = spec.list_interpretations(opened, vocab=vocab)
    if len(interpretations) < 2:
        raise CheckpointError(
            f"`{opened.path}` ({opened.task}) has only one interpretation: its tensor shapes determine it",
            hint="`ttstrain inspect-ckpt` without `--probe` shows it",
        )
    clips = choose_clips(data)
    device = choose_device("auto", tf32=TrainConfig().tf32)
    weights = read_tree(opened.weights)
    judged = []
    with show("probing") as progress:
        for number, one in enumerate(interpretations):
            task, task_data = _build_task(spec, one, device)
            batches = {clip.id: _batch(task_data, clip) for clip in clips}
            load_weights(task, weights, source=str(opened.path))
            losses = _losses(task, batches, device)
            mean = statistics.fmean(losses.values())
            judged.append(Judged(one.name, one.settings, stated=one.stated, loss=mean, clips=losses))
            if progress is not None:
                progress(number + 1, len(interpretations) + 1)
        best = min(range(len(interpretations)), key=lambda number: judged[number].loss)
        task, task_data = _build_task(spec, interpretations[best], device)
        untrained = _losses(task, {clip.id: _batch(task_data, clip) for clip in clips}, device)
    return compare(judged, untrained=statistics.fmean(untrained.values()), path=path, model=opened.model)


def choose_clips(data: str) -> list[Clip]:
    """Choose clips of 1.5 to 8 s spread over a data set; the choice is deterministic."""
    table = read_rows(data)
    wanted = NUM_CLIPS * LOOKED_AT
    step = max(1, len(table.rows) // wanted)
    some = replace(table, rows=table.rows[::step][:wanted], findings=[])
    clips = audit(some, DataConfig(path=data)).clips
    low, high = HANDY_S
    handy = [clip for clip in clips if low <= clip.duration_s <= high] or sorted(clips, key=lambda c: c.duration_s)
    step = max(1, len(handy) // NUM_CLIPS)
    chosen = handy[::step][:NUM_CLIPS]
    if len(chosen) < 2:
        raise UserError(f"`{data}` has too few clips for a comparison", hint="give at least two clips with texts")
    return chosen


def compare(judged: Sequence[Judged], *, untrained: float, path: str, model: str) -> Probe:
    """Order interpretations and measure how far the best is ahead of the next, clip by clip."""
    ordered = sorted(judged, key=lambda interpretation: interpretation.loss)
    best, second = ordered[:2]
    ahead = [second.clips[clip] / best.clips[clip] - 1 if best.clips[clip] else 0.0 for clip in best.clips]
    spread = statistics.stdev(ahead) / len(ahead) ** 0.5
    margin = statistics.fmean(ahead)
    return Probe(
        path=path,
        model=model,
        interpretations=ordered,
        untrained=untrained,
        margin=margin,
        errors=margin / spread if spread else 0.0,
        ahead=sum(share > 0 for share in ahead),
    )


def _build_task(spec: TaskSpec, interpretation: Interpretation, device: torch.device) -> tuple[Task, Any]:
    """Build a new model and its data, the same for every interpretation."""
    torch.manual_seed(0)
    known = {key: value for key, value in interpretation.model.items() if key in spec.config.model_fields}
    config = spec.read_model(known)
    return spec.build(config).to(device), spec.data(config)


def _batch(task_data: Any, clip: Clip) -> Batch:
    features = task_data.features(read_clip(clip, task_data.sample_rate), clip)
    batch: Batch = task_data.collate([task_data.example(clip, features)])
    return batch


def _losses(task: Task, batches: Mapping[str, Batch], device: torch.device) -> dict[str, float]:
    def loss(batch: Batch, generator: torch.Generator) -> float:
        total = task.evaluate(batch, generator)["total"]
        return float(total.total / total.count if isinstance(total, Mean) else total)

    values = evaluate_batches(task, [[batch] for batch in batches.values()], loss, device=device)
    return dict(zip(batches, values, strict=True))
