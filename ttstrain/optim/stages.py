"""The stages of a run: which steps belong to each, and how each changes the groups' learning rates. Imports no torch.

Every schedule begins again with every stage and spans the steps planned for it, so the LR is a function of the step and
of where earlier stages ended. A stage may end earlier than planned; where stages ended is the only state.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Protocol

from ttstrain.errors import CheckpointError, RecipeError
from ttstrain.optim.schedule import lr_at, warmup_length
from ttstrain.recipe.schema import EarlyStop, Schedule


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a run, with all settings resolved."""

    name: str  # "" if the recipe names no stages
    steps: int  # planned
    steps_per_epoch: float
    lr_scale: float = 1.0
    group_lr_scale: Mapping[str, float] = field(default_factory=dict)  # pattern -> factor
    frozen: tuple[str, ...] = ()  # patterns
    only: tuple[str, ...] = ()  # patterns; empty trains every group that is not frozen
    schedule: Schedule | None = None
    early_stop: EarlyStop | None = None

    def trains(self, group: ParameterGroup) -> bool:
        """Tell whether the stage trains a group."""
        if self.only:
            return any(matches(pattern, group) for pattern in self.only)
        return not any(matches(pattern, group) for pattern in self.frozen)

    def peak_lr(self, group: ParameterGroup) -> float:
        """Return the group's peak LR in this stage."""
        lr = group.lr * self.lr_scale
        for pattern, factor in self.group_lr_scale.items():
            if matches(pattern, group):
                lr *= factor
        return lr

    def schedule_of(self, group: ParameterGroup) -> Schedule:
        """Return the schedule that the group follows in this stage."""
        return group.schedule if self.schedule is None else self.schedule

    def warmup_of(self, group: ParameterGroup) -> int:
        """Return the number of the group's warmup steps in this stage."""
        return warmup_length(self.schedule_of(group), self.steps)

    def lr_of(self, group: ParameterGroup, position: int) -> float:
        """Return the group's LR after `position` updates of this stage; 0 if it is frozen."""
        if not self.trains(group):
            return 0.0
        return lr_at(
            self.schedule_of(group),
            step=position,
            base_lr=self.peak_lr(group),
            total_steps=self.steps,
            steps_per_epoch=self.steps_per_epoch,
        )


class ParameterGroup(Protocol):
    """The attributes of a parameter group that a stage uses, in a plan or during training."""

    @property
    def optimizer(self) -> str: ...

    @property
    def rule(self) -> str:
        """The name of its rule in `optim.groups`, or `default`."""
        ...

    @property
    def lr(self) -> float: ...

    @property
    def schedule(self) -> Schedule: ...


@dataclass(frozen=True, slots=True)
class Place:
    """The stage of a step."""

    index: int
    stage: Stage
    start: int  # first step of the stage

    @property
    def end(self) -> int:
        """The step after which the stage is complete as planned."""
        return self.start + self.stage.steps


class Curriculum:
    """The stages of a run, and the steps at which finished ones ended. A `Stateful`."""

    def __init__(self, stages: Sequence[Stage], *, ended: Sequence[int] = ()) -> None:
        self.stages = tuple(stages)
        self._ended = list(ended)  # one step per stage that is over

    @property
    def current(self) -> Place:
        """The running stage."""
        index = len(self._ended)
        return Place(index, self.stages[index], self._ended[-1] if self._ended else 0)

    @property
    def staged(self) -> bool:
        """Whether the recipe names stages; else the whole run is one."""
        return self.stages[0].name != ""

    @property
    def is_last(self) -> bool:
        return self.current.index == len(self.stages) - 1

    @property
    def total_steps(self) -> int:
        """The length of the run, if no further stage ends early."""
        return self.current.start + sum(stage.steps for stage in self.stages[self.current.index :])

    def places(self) -> Iterator[Place]:
        """Yield every stage with its start; future stages start as planned."""
        start = 0
        for index, stage in enumerate(self.stages):
            yield Place(index, stage, start)
            start = self._ended[index] if index < len(self._ended) else start + stage.steps

    def at(self, step: int) -> Place:
        """Return the stage of the update after `step` finished ones; the last one's beyond the end."""
        return [place for place in self.places() if place.start <= step or place.index == 0][-1]

    def lr_of(self, group: ParameterGroup, step: int) -> float:
        """Return a group's LR for the update after `step` finished ones."""
        place = self.at(step)
        return place.stage.lr_of(group, step - place.start)

    def end_stage(self, step: int) -> Place:
        """End the running stage after `step` updates, and return the next one."""
        self._ended.append(step)
        return self.current

    def catch_up(self, step: int) -> None:
        """End the stages that are complete after `step` updates, for a resumed run with added stages."""
        while not self.is_last and step >= self.current.end:
            self.end_stage(self.current.end)

    @property
    def ended(self) -> list[tuple[str, int]]:
        """The names of finished stages, with the step after which each ended."""
        over = self.stages[: len(self._ended)]
        return [(stage.name, step) for stage, step in zip(over, self._ended, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        return {"ended": [list(pair) for pair in self.ended]}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        self._ended = steps_of(self.stages, state_dict["ended"])


def steps_of(stages: Sequence[Stage], ended: Iterable[Sequence[Any]]) -> list[int]:
    """Return where stages ended, by the names a checkpoint gives them; they must be the recipe's first ones."""
    over = [(str(name), int(step)) for name, step in ended]
    names = [stage.name for stage in stages]
    if [name for name, _ in over] != names[: len(over)] or len(over) >= max(len(names), 1):
        raise CheckpointError(
            f"the run has already finished the stages {', '.join(f'`{name}`' for name, _ in over)}, but the recipe's "
            f"stages are {', '.join(f'`{name}`' for name in names)}",
            hint="keep the finished stages unchanged, with at least one after them; later stages may change",
        )
    return [step for _, step in over]


# ---------------------------------------------------------------- which groups


def matches(pattern: str, group: ParameterGroup) -> bool:
    """Match a stage's pattern with a group's rule name, or with `<optimizer>/<rule>` if the pattern has a slash."""
    name = f"{group.optimizer}/{group.rule}" if "/" in pattern else group.rule
    return fnmatchcase(name, pattern)


def check_groups(stages: Sequence[Stage], groups: Sequence[ParameterGroup]) -> None:
    """Refuse stages that name unknown groups or train nothing; `groups` are all that are not frozen for good."""
    for index, stage in enumerate(stages):
        for key, patterns in (
            ("frozen", stage.frozen),
            ("only", stage.only),
            ("group_lr_scale", tuple(stage.group_lr_scale)),
        ):
            for pattern in patterns:
                if not any(matches(pattern, group) for group in groups):
                    raise RecipeError(
                        f"`stages.{index}.{key}`: stage `{stage.name}` names `{pattern}`, which matches no trained "
                        "parameter group",
                        hint=_near(pattern, groups),
                    )
        if not any(stage.trains(group) for group in groups):
            raise RecipeError(
                f"stage `{stage.name}` freezes every parameter group, so nothing is trained",
                hint=f"remove groups from `stages.{index}.frozen`",
            )


def _near(pattern: str, groups: Sequence[ParameterGroup]) -> str:
    keys = (f"{group.optimizer}/{group.rule}" if "/" in pattern else group.rule for group in groups)
    names = list(dict.fromkeys(keys))
    near = difflib.get_close_matches(pattern, names, n=1)
    if near:
        return f"did you mean `{near[0]}`?"
    return f"groups are defined in `optim.groups`; this run has {', '.join(f'`{name}`' for name in names)}"
