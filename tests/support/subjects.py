"""Every task at its smallest, and some data for it: what the smoke recipes say, whatever families there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import fourth_family
import torch

from ttstrain import registry
from ttstrain.contract.data import Batch, Clip, TaskData
from ttstrain.contract.family import TaskSpec
from ttstrain.contract.model import ModelConfig, Planner, ResolvedRecipe
from ttstrain.contract.task import Task
from ttstrain.data.audio import read_clip
from ttstrain.data.audit import audit
from ttstrain.data.readers import read_rows
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose
from ttstrain.recipe.shipped import list_recipes

CLIP_S = 2.0  # clips are cut to one length: padding may change what a published net computes

SMOKE_RECIPES = [entry.name for entry in list_recipes() if entry.name.startswith("smoke/")]
FOURTH = str(fourth_family.RECIPE)  # of a family that no other part of ttstrain knows


@dataclass(frozen=True)
class Subject:
    """One task at its smallest, and some data for it."""

    smoke: str
    recipe: ResolvedRecipe
    planner: Planner[Any]
    build: Callable[[], Task]
    data: TaskData
    clips: list[Clip]

    def batch(self, clips: list[Clip] | None = None) -> Batch:
        examples = []
        for clip in self.clips if clips is None else clips:
            features = self.data.features(read_clip(clip, self.data.sample_rate), clip)
            examples.append(self.data.example(clip, features))
        return self.data.collate(examples)


def known(smoke: str) -> AbstractContextManager[None]:
    """Make this process know the family of a smoke recipe."""
    return fourth_family.known() if smoke == FOURTH else nullcontext()


def make_subject(smoke: str, overrides: Sequence[str] = ()) -> Subject:
    recipe = parse(compose(smoke, list(overrides)))
    spec = registry.find_task(recipe.task)
    assert recipe.data.path is not None
    clips = audit(read_rows(recipe.data.path), recipe.data).clips
    return Subject(
        smoke=smoke,
        recipe=recipe,
        planner=registry.planner_of(recipe),
        build=lambda: built(spec, recipe.model),
        data=spec.data(recipe.model),
        clips=[cut(clip) for clip in clips if clip.duration_s >= CLIP_S][:4],
    )


def built(spec: TaskSpec, config: ModelConfig, *, seed: int = 0) -> Task:
    """Build a task and move it off its initialisation, where much of a net may be switched off by zeros."""
    torch.manual_seed(seed)
    task = spec.build(config)
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return task


def cut(clip: Clip, *, seconds: float = CLIP_S) -> Clip:
    start = clip.treatment.start
    treatment = replace(clip.treatment, end=start + round(seconds * clip.sample_rate))
    return replace(clip, treatment=treatment, duration_s=seconds)
