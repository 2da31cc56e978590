"""A measured trial: the beginning of a run, a few steps, and what follows a step, each once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

from ttstrain.contract.data import Batch
from ttstrain.errors import DivergedError, first_line
from ttstrain.forecast import ledger
from ttstrain.forecast.costs import Costs
from ttstrain.forecast.forecast import Forecast, forecast
from ttstrain.modules.cpu.heap import keep_freed_memory
from ttstrain.plan.plan import Plan
from ttstrain.recipe.compose import Composed
from ttstrain.runs.measured import costs_of, take_stock
from ttstrain.runs.tracked import tracked
from ttstrain.train import checkpointing, recovery, spent
from ttstrain.train.decide import Requests, due
from ttstrain.train.held_out import HeldOut
from ttstrain.train.loop import take_step
from ttstrain.train.measure import measure, measure_first
from ttstrain.train.prepare import ShowProgress, no_progress
from ttstrain.train.requests import tell_saved
from ttstrain.train.run import Run
from ttstrain.train.signals import Signals
from ttstrain.train.snapshot import Snapshots
from ttstrain.train.stages import enter_stage
from ttstrain.train.step_log import Taken, log_step
from ttstrain.trial.scratch import Scratch, scratch_run
from ttstrain.trial.worst import collate, worst_batches

SECONDS = 12.0  # of steps, about
FEWEST_STEPS, MOST_STEPS = 8, 60  # that are measured, after the first ones
MOST_REFUSED = 5  # updates in a row
HEARD = 2  # sentences by the judge after the steps; before them it hears all, as in a run

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Trial:
    """What a trial measured, and what follows for the run."""

    plan: Plan
    costs: Costs
    forecast: Forecast | None


def make_trial(composed: Composed, *, seconds: float = SECONDS, show: ShowProgress = no_progress) -> Trial:
    """Try the recipe for a few steps, and keep what they took for later plans on this machine.

    The largest micro-batches come first, so that the memory is the most that the run will take. Raises what the run
    would raise, OutOfMemoryError where a single clip does not fit, and DivergedError where every update is refused.
    """
    with scratch_run(composed, show=show) as scratch:
        run = scratch.ready.run
        with tracked(scratch.ready, scratch.here) as training, Signals(run.folder, speak=False) as signals:
            run.spent.begin()
            _begin(run, training.held_out, training.snapshots, signals, show)
            with show("trying steps") as progress:
                _take_worst(scratch, training.snapshots, signals)
                _take_steps(run, training.snapshots, signals, seconds=seconds, progress=progress or _untold)
            with show("trying what follows a step"):
                _follow(run, training.held_out, training.snapshots, signals)
            training.status = "done"
            costs = costs_of(scratch.ready, take_stock(run), source="trial", name=composed.name)
        _keep(run.plan, costs)
        return Trial(run.plan, costs, forecast(run.plan, costs))


def _keep(plan: Plan, costs: Costs) -> None:
    try:
        ledger.keep(plan, costs)
    except OSError as error:
        log.warning("what the trial measured is not kept for later plans: %s", first_line(error))


def _untold(_done: int, _of: int) -> None:
    return


def _begin(run: Run, held_out: HeldOut, snapshots: Snapshots, signals: Signals, show: ShowProgress) -> None:
    """Do what a run does before its first step."""
    keep_freed_memory(run.device)
    enter_stage(run)
    recovery.hold_first(run, snapshots)
    with show("evaluating and listening to the base"):
        measure_first(run, held_out, signals)
    _check(signals)


def _take_worst(scratch: Scratch, snapshots: Snapshots, signals: Signals) -> None:
    """Take the first steps, on the micro-batches that need the most memory."""
    recipe, prepared = scratch.plan.recipe, scratch.ready.prepared
    worst = worst_batches(prepared, budget=recipe.data.batch_frames, max_clips=recipe.data.max_clips)
    for clips in (worst * spent.NUM_FIRST)[: max(len(worst), spent.NUM_FIRST)]:
        _take(scratch.ready.run, [collate(prepared, clips)], snapshots)
        _check(signals)


def _take_steps(run: Run, snapshots: Snapshots, signals: Signals, *, seconds: float, progress: Progress) -> None:
    """Take steps of the run until the time is up."""
    started, done = perf_counter(), 0
    while done < MOST_STEPS and (done < FEWEST_STEPS or perf_counter() - started < seconds):
        _take(run, None, snapshots)
        done += 1
        progress(done, MOST_STEPS)
        _check(signals)


def _take(run: Run, batches: Sequence[Batch] | None, snapshots: Snapshots) -> None:
    """Take a step on these micro-batches, by default on the run's next ones. A refused one is taken anew."""
    for _ in range(MOST_REFUSED):
        with run.spent.on_step():
            started = perf_counter()
            own = batches or run.loader.next(run.plan.accumulate)
            data_s = perf_counter() - started
            report, _again = take_step(run, own, snapshots)
        if report is not None:
            recovery.after_good_step(run)
            run.spent.count_frames(report.num_padded)
            if due(run.progress.step, run.plan.recipe.train.log_every):
                with run.spent.on(spent.LOG):
                    log_step(run, Taken(report, own, step_s=perf_counter() - started, data_s=data_s))
            return
    raise DivergedError(
        f"{MOST_REFUSED} updates in a row were refused in the trial, so nothing was measured",
        hint="lower `optim.lr`, or try `train.precision=fp32`",
    )


def _follow(run: Run, held_out: HeldOut, snapshots: Snapshots, signals: Signals) -> None:
    """Do once what may follow a step: evaluate, generate and listen to a few sentences, hold, save.

    A snapshot is taken before the last one is dropped, and a save copies the state while the next step begins: the
    run needs the memory for both.
    """
    listening = held_out.previews.listening
    if listening is not None:
        listening.between = HEARD
    measure(run, held_out, signals, Requests(), evaluates=run.plan.eval_every is not None, speaks=True)
    _check(signals)
    if run.plan.snapshot_every < run.plan.steps:
        recovery.hold(run, snapshots)
    checkpointing.save(run)
    if run.plan.save_every < run.plan.steps:
        take_step(run, run.loader.next(run.plan.accumulate), snapshots)
    with run.spent.on(spent.SAVE, times=0):  # of the same save
        run.store.wait()
    tell_saved(run)


def _check(signals: Signals) -> None:
    """Raise KeyboardInterrupt where a signal asked to leave: there is nothing to save."""
    if signals.hurried:
        raise KeyboardInterrupt
