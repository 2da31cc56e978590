"""Which transcripts the model itself finds suspicious."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ttstrain import families
from ttstrain.checkpoint.loading import load_weights
from ttstrain.checkpoint.meta import check_vocab
from ttstrain.checkpoint.upstream import OpenedCheckpoint, open_checkpoint, resolve_base
from ttstrain.config.facts import front_end_of
from ttstrain.config.recipe import Recipe
from ttstrain.data import atomic
from ttstrain.data.cache import FeatureCache
from ttstrain.data.manifest import Clip, json_line
from ttstrain.data.sampler import in_order
from ttstrain.engine.build import choose_device
from ttstrain.engine.evaluate import EVALUATION_SEED, evaluating
from ttstrain.engine.precision import Precision, choose
from ttstrain.errors import DataError
from ttstrain.task import Task

SUSPICIOUS = -3.0  # robust standard deviations from the median
NORMAL_MAD = 1.4826  # standard deviation of a normal distribution over its median absolute deviation
FEWEST_CLIPS = 8  # below that a median says nothing


@dataclass(frozen=True, slots=True)
class ClipScore:
    """One clip's agreement with its text."""

    clip: Clip
    score: float  # as `Task.score`
    z: float  # robust standard deviations from the median of all clips

    @property
    def suspicious(self) -> bool:
        return self.z < SUSPICIOUS

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.clip.id,
            "score": self.score,
            "z": self.z,
            "suspicious": self.suspicious,
            "text": self.clip.text,
            "path": str(self.clip.path),
            "source": self.clip.source,
            "duration_s": self.clip.duration_s,
        }


@dataclass(frozen=True, slots=True)
class Scoring:
    """The scores of a data set, the most suspicious clip first."""

    scores: Sequence[ClipScore]
    checkpoint: str  # what scored, for people
    median: float
    told_apart: bool  # whether the model hears the texts at all

    @property
    def suspicious(self) -> list[ClipScore]:
        return [score for score in self.scores if score.suspicious]

    def to_json(self) -> dict[str, Any]:
        return {
            "checkpoint": self.checkpoint,
            "median": self.median,
            "told_apart": self.told_apart,
            "clips": [entry.to_json() for entry in self.scores],
        }


def open_scorer(recipe: Recipe, path: str) -> OpenedCheckpoint:
    """Open the checkpoint, or the best of a run, that is to judge the texts of a recipe's task.

    Raises CheckpointError when it is another model than the recipe's, or reads texts by another vocabulary.
    """
    opened = open_checkpoint(resolve_base(path), task=recipe.task)
    opened.check_model(recipe.model)
    front_end = front_end_of(recipe)
    if front_end is not None:
        check_vocab(opened.front_end, front_end.versions, source=str(opened.path))
    return opened


def score(
    recipe: Recipe,
    opened: OpenedCheckpoint,
    cache: FeatureCache,
    clips: Sequence[Clip],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Scoring:
    """Score clips whose features are cached by a checkpoint's average, or its weights where it holds no average.

    Every clip meets the same times and fixed noise, so that scores differ by clip and text alone.
    """
    if len(clips) < FEWEST_CLIPS:
        raise DataError(f"{len(clips)} clips are too few to tell what is unusual", hint=f"give {FEWEST_CLIPS} or more")
    device = choose_device(recipe.train.device)
    precision = Precision(choose(recipe.train.precision, device), device)
    task = _load(recipe, opened).to(device)
    values: dict[str, float] = {}
    generator = torch.Generator()
    lengths = [cache.task_data.length(clip) for clip in clips]
    with evaluating(task):
        for number, indices in enumerate(
            in_order(lengths, budget=recipe.data.batch_frames, max_clips=recipe.data.max_clips)
        ):
            examples = [cache.task_data.example(clips[i], cache.get(clips[i])) for i in indices]
            batch: Any = cache.task_data.collate(examples)
            generator.manual_seed(EVALUATION_SEED + number)
            with precision.autocast():
                scored: Tensor = task.score(batch.to(device), generator)
            values |= zip(batch.ids, scored.double().tolist(), strict=True)
            if progress is not None:
                progress(len(values), len(clips))
    return rank(clips, values, checkpoint=_describe(opened))


def rank(clips: Sequence[Clip], values: dict[str, float], *, checkpoint: str) -> Scoring:
    """Order clips by their scores and measure each in robust standard deviations from the median."""
    median = statistics.median(values.values())
    spread = NORMAL_MAD * statistics.median(abs(value - median) for value in values.values())
    scores = [
        ClipScore(clip, values[clip.id], (values[clip.id] - median) / spread if spread else 0.0) for clip in clips
    ]
    return Scoring(
        scores=sorted(scores, key=lambda entry: (entry.score, entry.clip.id)),
        checkpoint=checkpoint,
        median=median,
        told_apart=spread > 0 and median > 0,
    )


def write_scores(scoring: Scoring, path: Path) -> None:
    """Write one JSON line per clip, the most suspicious first."""
    lines = [json_line(entry.to_json()) for entry in scoring.scores]
    atomic.write_text(path, "".join(line + "\n" for line in lines))


def _load(recipe: Recipe, opened: OpenedCheckpoint) -> Task:
    spec = families.find_task(recipe.task)
    task_class: Any = spec.load_task()
    task: Task = task_class(spec.config.model_validate(recipe.model))
    load_weights(task, opened.weights, source=str(opened.path))
    if opened.ema is not None and opened.ema is not opened.weights:
        load_weights(task.exported(), opened.ema, source=f"{opened.path}, average")
    return task


def _describe(opened: OpenedCheckpoint) -> str:
    name = opened.path.name if opened.step is None else f"step {opened.step:,} of {opened.path.parent.parent.name}"
    return f"{name}, {'average' if opened.ema is not None else 'weights'}"
