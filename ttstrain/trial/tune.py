"""Find the settings of a recipe that suit this machine: micro-batch budget, loader processes, learning rates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import Composed
from ttstrain.train import recovery
from ttstrain.train.build import make_snapshots
from ttstrain.train.device import choose_device
from ttstrain.train.prepare import ShowProgress, no_progress
from ttstrain.train.stages import enter_stage
from ttstrain.trial import overrides
from ttstrain.trial.fit import Fit, fit
from ttstrain.trial.lr import STEPS, Curve, Together, find_lrs
from ttstrain.trial.memory import room_within
from ttstrain.trial.scratch import Scratch, scratch_run
from ttstrain.trial.workers import Waited, best_of, measure_waits

Compose = Callable[[Sequence[str]], Composed]  # further overrides -> the recipe with them


@dataclass(frozen=True, slots=True)
class Tuned:
    """What was measured, and the settings that follow from it."""

    name: str  # of the recipe
    device: str
    fit: Fit | None  # None where no memory was given to fit
    waits: Sequence[Waited]
    workers: int  # that were chosen
    curves: Sequence[Curve]
    together: Together | None  # all groups at the LRs of the curves; None where none was found
    overrides: dict[str, Any]  # dotted key -> value; only what differs from the recipe
    config: str  # the same as a file that a recipe can extend


def find_budget(composed: Composed, limit: int, *, show: ShowProgress = no_progress) -> tuple[Fit, dict[str, Any]]:
    """Find the largest micro-batch budget that fits the memory; return it with the overrides that set it.

    Raises RecipeError for a memory that this machine does not have, OutOfMemoryError where no budget fits it.
    """
    wanted = parse(composed).train
    device = choose_device(wanted.device, tf32=wanted.tf32)
    room = room_within(limit, device, wanted=wanted.device)  # before the data are prepared, which may take hours
    with scratch_run(composed, show=show) as scratch:
        run = scratch.ready.run
        _begin(scratch)
        with show("trying the largest micro-batches") as progress:
            found = fit(run, scratch.ready.prepared, room=room, told=progress)
        return found, overrides.of_budget(scratch.plan, found.budget)


def tune(compose: Compose, *, limit: int | None = None, steps: int = STEPS, show: ShowProgress = no_progress) -> Tuned:
    """Measure a recipe on this machine, in a folder that is thrown away, and propose settings.

    `limit` is the memory to fit, in bytes; without it the budget stays. `steps` are taken for each learning rate test.
    """
    budget, found = (None, {}) if limit is None else find_budget(compose([]), limit, show=show)
    with scratch_run(compose(overrides.as_arguments(found)), show=show) as scratch:
        ready = scratch.ready
        _begin(scratch)
        with show("testing learning rates") as progress:
            lrs = find_lrs(ready.run, steps=steps, told=progress)
        with show("measuring the wait for data"):  # trains the weights
            waits = measure_waits(ready.run, ready.prepared)
        best = best_of(waits)
        if best.workers != ready.prepared.workers:
            found["data.workers"] = best.workers
        found |= overrides.of_lrs(scratch.plan.recipe, lrs.curves)
        device = str(ready.run.device)
    whole = compose(overrides.as_arguments(found))
    title = f"What `ttstrain tune` measured for {whole.name} on {device}."
    config = overrides.as_config(found, whole, title=title)
    return Tuned(whole.name, device, budget, waits, best.workers, lrs.curves, lrs.together, found, config)


def _begin(scratch: Scratch) -> None:
    """Hold what a run holds while it trains: the snapshot for a rollback."""
    run = scratch.ready.run
    enter_stage(run)
    recovery.hold_first(run, make_snapshots(run))
    run.task.train()
