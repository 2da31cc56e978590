"""What to do after a step: `decide` chooses it from plain values, and the loop does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ttstrain.plan.plan import Plan
from ttstrain.train.signals import HURRIED, Request

Ending = Literal["done", "early stop", "stopped"]
Leave = Literal["done", "early stop", "stopped", "preempted", "interrupted"]  # the last two are errors of their own


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run stands after a step."""

    step: int
    last: bool = False  # of the run
    ends_stage: bool = False  # the last of its stage, and another stage follows
    in_last_stage: bool = True


@dataclass(frozen=True, slots=True)
class Requests:
    """What signals and request files ask for between two steps."""

    leave: Request | None = None
    save: bool = False
    sample: bool = False  # now, whatever the plan says

    @property
    def hurried(self) -> bool:
        """Whether the state is to be saved before anything else."""
        return self.leave in HURRIED


@dataclass(frozen=True, slots=True)
class Found:
    """What an evaluation showed."""

    improved: bool = False  # it is the best so far
    out_of_patience: bool = False  # the early stop's patience has run out


@dataclass(frozen=True, slots=True)
class After:
    """What is done after a step, in this order."""

    log: bool
    evaluate: bool
    speak: bool
    next_stage: bool  # begins, on schedule or because the early stop ended this one
    snapshot: bool
    save: bool
    leave: Leave | None


def decide(place: Place, plan: Plan, requests: Requests, found: Found | None = None) -> After:
    """Decide what is done after a step. `found` is None before the evaluation, and where there is none.

    After the last step of a run or of a stage the run evaluates, generates previews and saves, whatever the plan's
    intervals; the run's last step is also logged. A run that leaves saves first. After its last step it ends as "done",
    whatever a signal asked for.
    """
    step, ends = place.step, place.last or place.ends_stage
    found = found or Found()
    next_stage = place.ends_stage or (found.out_of_patience and not place.in_last_stage)
    leave: Leave | None
    if place.last:
        leave = "done"
    elif requests.leave == "stop":
        leave = "stopped"
    elif found.out_of_patience and not next_stage:
        leave = "early stop"
    else:
        leave = requests.leave
    return After(
        log=place.last or due(step, plan.recipe.train.log_every),
        evaluate=ends or due(step, plan.eval_every),
        speak=ends or due(step, plan.sample_every),
        next_stage=next_stage,
        snapshot=next_stage or due(step, plan.snapshot_every),
        save=found.improved or leave is not None or next_stage or requests.save or due(step, plan.save_every),
        leave=leave,
    )


def due(step: int, every: int | None) -> bool:
    """Tell whether something done every so many steps is due after this one."""
    return every is not None and step % every == 0
