"""Score transcripts with a model, and rank the suspicious ones first."""

from __future__ import annotations

import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from ttstrain import registry
from ttstrain.checkpoint.meta import check_vocab
from ttstrain.checkpoint.upstream import open_checkpoint, resolve_base
from ttstrain.contract.checkpoint import OpenedCheckpoint
from ttstrain.contract.data import Clip
from ttstrain.contract.model import ResolvedRecipe
from ttstrain.contract.task import ScoresTranscripts, Task
from ttstrain.data import atomic
from ttstrain.data.cache import FeatureCache
from ttstrain.data.manifest import json_line
from ttstrain.data.sampler import in_order
from ttstrain.errors import DataError, RecipeError
from ttstrain.places import refused_as
from ttstrain.plan.facts import front_end_of
from ttstrain.tensors.loading import load_weights
from ttstrain.train.device import choose_device
from ttstrain.train.evaluation_loop import Pieces, evaluate_batches
from ttstrain.train.precision import Precision, choose

SUSPICIOUS = -3.0  # robust standard deviations from the median
NORMAL_MAD = 1.4826  # standard deviation of a normal distribution over its median absolute deviation
FEWEST_CLIPS = 8  # fewer clips give no useful median
CHANCE, HEARS = 0.5, 0.8  # values of `Scoring.separation`: of a model that ignores the audio, and the least to rely on


@dataclass(frozen=True, slots=True)
class ClipScore:
    """One clip's agreement with its text."""

    clip: Clip
    score: float  # as `Task.score`
    z: float  # robust standard deviations from the median of all clips
    suspicious: bool  # far below the others, or no better explained than by another clip's text

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
    checkpoint: str  # name of the checkpoint that scored, for the user
    median: float
    separation: float  # share of pairs in which a clip's text scores above another's in its place; see `CHANCE`

    @property
    def reliable(self) -> bool:
        """Whether the model separates right texts from wrong ones well enough for its ranking to be useful."""
        return self.separation >= HEARS

    @property
    def suspicious(self) -> list[ClipScore]:
        return [score for score in self.scores if score.suspicious]

    def to_json(self) -> dict[str, Any]:
        return {
            "checkpoint": self.checkpoint,
            "median": self.median,
            "separation": self.separation,
            "clips": [entry.to_json() for entry in self.scores],
        }


def open_scorer(recipe: ResolvedRecipe, path: str) -> OpenedCheckpoint:
    """Open the checkpoint, or the best of a run, that is to judge the texts of a recipe's task.

    Raises CheckpointError when it is another model than the recipe's, or reads texts by another vocabulary.
    """
    opened = open_checkpoint(resolve_base(path), task=recipe.task)
    opened.check_model(recipe.section())
    front_end = front_end_of(recipe)
    if front_end is not None:
        check_vocab(opened.front_end, front_end.versions, source=str(opened.path))
    return opened


def score(
    recipe: ResolvedRecipe,
    opened: OpenedCheckpoint,
    cache: FeatureCache,
    clips: Sequence[Clip],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Scoring:
    """Score clips whose features are cached.

    Noise and times are fixed, so that scores differ by clip and text alone. Each clip is scored a second time with the
    text of another clip of like length: the separation of both kinds of scores measures how reliable the model is.
    Raises DataError when there are fewer than `FEWEST_CLIPS` clips.
    """
    if len(clips) < FEWEST_CLIPS:
        raise DataError(f"{len(clips)} clips are too few to rank", hint=f"give at least {FEWEST_CLIPS}")
    scorer = load_scorer(recipe, opened, cache)
    partners = exchanged(clips, order=sorted(range(len(clips)), key=lambda i: cache.task_data.length(clips[i])))
    passes = []
    for number, texts in enumerate((clips, partners)):
        before = number * len(clips)
        tell = None if progress is None else partial(_tell, progress, before=before, of=2 * len(clips))
        passes.append(score_texts(scorer, clips, texts, tell=tell))
    own, foreign = passes
    return rank(clips, own, foreign, checkpoint=_describe(opened))


def _tell(progress: Callable[[int, int], None], done: int, *, before: int, of: int) -> None:
    progress(before + done, of)


@dataclass(frozen=True, slots=True)
class Scorer:
    """A model that is ready to judge clips."""

    task: Task
    cache: FeatureCache
    recipe: ResolvedRecipe
    device: torch.device
    precision: Precision


def load_scorer(recipe: ResolvedRecipe, opened: OpenedCheckpoint, cache: FeatureCache) -> Scorer:
    """Load a checkpoint's EMA weights, or its raw weights if it has no EMA."""
    device = choose_device(recipe.train.device, tf32=recipe.train.tf32)
    spec = registry.find_task(recipe.task)
    task = spec.build(recipe.model)
    if not isinstance(task, ScoresTranscripts):
        raise RecipeError(
            f"`{recipe.task}` cannot score transcripts",
            hint="`--score` needs a checkpoint of a task that can score them",
        )
    load_weights(task, opened.weights, source=str(opened.path))
    if opened.ema is not None and opened.ema is not opened.weights:
        load_weights(task.exported(), opened.ema, source=f"{opened.path}, EMA weights")
    return Scorer(task.to(device), cache, recipe, device, Precision(choose(recipe.train.precision, device), device))


def score_texts(
    scorer: Scorer, clips: Sequence[Clip], texts: Sequence[Clip], *, tell: Callable[[int], None] | None = None
) -> dict[str, float]:
    """Score every clip with the text of its counterpart in `texts`; noise does not depend on the texts."""
    values: dict[str, float] = {}
    judge = scorer.task
    assert isinstance(judge, ScoresTranscripts)  # `load_scorer` has checked it

    def add(batch: Any, generator: torch.Generator) -> None:
        scored = judge.score(batch, generator)
        values.update(zip(batch.ids, scored.double().tolist(), strict=True))
        if tell is not None:
            tell(len(values))

    batches = _batches(scorer, clips, texts)
    evaluate_batches(scorer.task, batches, add, device=scorer.device, autocast=scorer.precision.autocast)
    return values


def _batches(scorer: Scorer, clips: Sequence[Clip], texts: Sequence[Clip]) -> Iterator[Pieces]:
    """Yield the clips with the texts of their counterparts, of like length together."""
    data, task_data = scorer.recipe.data, scorer.cache.task_data
    lengths = [task_data.length(clip) for clip in clips]
    for indices in in_order(lengths, budget=data.batch_frames, max_clips=data.max_clips):
        said = [replace(clips[i], text=texts[i].text, tokens=texts[i].tokens) for i in indices]
        features = [scorer.cache.get(clips[i]) for i in indices]
        yield [task_data.collate([task_data.example(*pair) for pair in zip(said, features, strict=True)])]


def exchanged(clips: Sequence[Clip], *, order: Sequence[int]) -> list[Clip]:
    """Give every clip the next one in `order` with another text; itself if there is none."""
    partners = list(clips)
    for place, i in enumerate(order):
        others = (clips[order[k]] for k in chain(range(place + 1, len(order)), range(place)))
        partners[i] = next((other for other in others if other.text != clips[i].text), clips[i])
    return partners


def rank(
    clips: Sequence[Clip], values: Mapping[str, float], foreign: Mapping[str, float], *, checkpoint: str
) -> Scoring:
    """Order clips by their scores and measure each in robust standard deviations from the median.

    `foreign` are the scores with other clips' texts. A clip is suspicious far below the median, or below the median
    of `foreign`: the first rule finds a few wrong texts where scores vary little, the second many where they vary much.
    """
    elsewhere = statistics.median(foreign.values())
    median = statistics.median(values.values())
    spread = NORMAL_MAD * statistics.median(abs(value - median) for value in values.values())
    scores = []
    for clip in clips:
        value = values[clip.id]
        z = (value - median) / spread if spread else 0.0
        scores.append(ClipScore(clip, value, z, suspicious=z < SUSPICIOUS or value < elsewhere))
    return Scoring(
        scores=sorted(scores, key=lambda entry: (entry.score, entry.clip.id)),
        checkpoint=checkpoint,
        median=median,
        separation=_separation(list(values.values()), list(foreign.values())),
    )


def _separation(own: Sequence[float], foreign: Sequence[float]) -> float:
    """Return the area under the ROC curve; equal scores count half."""
    ordered = sorted(foreign)
    below = sum((bisect_left(ordered, value) + bisect_right(ordered, value)) / 2 for value in own)
    return below / (len(own) * len(ordered))


def write_scores(scoring: Scoring, path: Path) -> None:
    """Write one JSON line per clip, the most suspicious first."""
    lines = [json_line(entry.to_json()) for entry in scoring.scores]
    with refused_as(DataError, path=path):
        atomic.write_text(path, "".join(line + "\n" for line in lines))


def _describe(opened: OpenedCheckpoint) -> str:
    name = opened.path.name if opened.step is None else f"step {opened.step:,} of {opened.path.parent.parent.name}"
    return f"{name}, {'EMA' if opened.ema is not None else 'raw'} weights"
