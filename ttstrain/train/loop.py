"""The training loop: take a step, decide what follows from it, do that.

What is decided stands in `decide`, what can go wrong in a step in `recovery`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from time import perf_counter

from ttstrain.contract.data import Batch
from ttstrain.modules.cpu.heap import keep_freed_memory
from ttstrain.train import checkpointing, recovery
from ttstrain.train.decide import After, Ending, Found, Place, Requests, decide, due
from ttstrain.train.evaluation_loop import Pieces
from ttstrain.train.forensics import Attempt
from ttstrain.train.held_out import HeldOut
from ttstrain.train.measure import BY_RESUME, ONCE_SAVED, measure, measure_first, remember
from ttstrain.train.previews import generate_on_request
from ttstrain.train.profiler import waiting_for_data
from ttstrain.train.requests import answer, leave, look_for_requests, tell_saved
from ttstrain.train.run import Run
from ttstrain.train.signals import Signals
from ttstrain.train.snapshot import Snapshots
from ttstrain.train.spent import LOG, SAVE
from ttstrain.train.stages import begin_next_stage, enter_stage
from ttstrain.train.step import DidNotFit, StepReport, train_step
from ttstrain.train.step_log import Taken, log_step
from ttstrain.train.untrained import tell_of_untrained


def train(run: Run, held_out: HeldOut, snapshots: Snapshots) -> Ending:
    """Train until the last step of the last stage, an early stop in it or a signal.

    Raises DivergedError, Interrupted, Preempted or OutOfMemoryError with a good checkpoint on disk; any other error
    once the run is saved. Raises CheckpointError where the state to start from is not finite.
    """
    keep_freed_memory(run.device)
    profiler = nullcontext() if run.profiler is None else closing(run.profiler)
    with Signals(run.folder, speak=run.ranks.main) as signals, recovery.saved_on_error(run, snapshots) as now, profiler:
        run.spent.begin()
        enter_stage(run)
        recovery.hold_first(run, snapshots)
        ending = measure_first(run, held_out, signals)
        again: Sequence[Batch] = ()
        while ending is None and run.progress.step < run.optimizers.curriculum.total_steps:
            wait_for_older_save(run)
            with run.spent.on_step(), profiled(run):
                started = perf_counter()
                if run.injector is not None:
                    run.injector.before_batch(run.loader, step=run.progress.step + 1)
                with waiting_for_data():
                    batches = again or run.loader.next(run.plan.accumulate)
                data_s = perf_counter() - started
                with now.in_a_step():
                    report, again = take_step(run, batches, snapshots, held_out.batches, again=bool(again))
            if again:
                continue  # what is saved now would leave out the batch that is tried once more
            if report is None:
                ending = answer(run, look_for_requests(run, signals), snapshots, held_out.batches)
            else:
                taken = Taken(report, batches, step_s=perf_counter() - started, data_s=data_s)
                ending = finish_step(run, taken, held_out, snapshots, signals)
        if run.injector is not None and (missing := run.injector.missing()):
            run.trackers.note(f"WARNING: {', '.join(missing)} did not enter: the run has not come to where they do")
    return ending or "done"


def profiled(run: Run) -> AbstractContextManager[None]:
    """Profile the block where the run profiles its steps."""
    return nullcontext() if run.profiler is None else run.profiler.on_step(run.progress.step + 1)


def wait_for_older_save(run: Run) -> None:
    """Wait, before a step after which a save is due, until the save before it is on the disk.

    Where a checkpoint takes longer to write than the steps between two, a kill would cost those of two otherwise.
    """
    if run.ranks.main and due(run.progress.step + 1, run.plan.save_every):
        with run.spent.on(SAVE, times=0):
            checkpointing.look_for_failure(run, wait=True)


def finish_step(run: Run, taken: Taken, held_out: HeldOut, snapshots: Snapshots, signals: Signals) -> Ending | None:
    """Do all that follows a step that was taken. A state is looked at before it is kept."""
    recovery.after_good_step(run)
    run.spent.count_frames(taken.report.num_padded)
    tell_of_untrained(run)
    place, requests = _place(run), look_for_requests(run, signals)
    after = decide(place, run.plan, requests)
    if after.log:
        with run.spent.on(LOG):
            log_step(run, taken)
    values: dict[str, float] = {}
    if after.evaluate or after.speak:
        values = measure(
            run,
            held_out,
            signals,
            requests,
            evaluates=after.evaluate,
            speaks=after.speak,
            then=ONCE_SAVED if place.last else BY_RESUME,
        )
        requests = look_for_requests(run, signals, before=requests)
        after = decide(place, run.plan, requests)
    if (values or after.snapshot or after.save) and (unsound := recovery.look(run, values)):
        recovery.take_back(run, unsound, snapshots, held_out.batches)
        return answer(run, requests, snapshots, held_out.batches)
    found = remember(run, values)
    after = decide(place, run.plan, requests, found)
    if after.next_stage:
        begin_next_stage(run)
    if after.snapshot:
        recovery.hold(run, snapshots)
    if after.save and not waits(run, after, requests, found):
        held = snapshots.in_memory() if after.snapshot else {}
        checkpointing.save(run, best=found.improved, metrics=values, held=held)
    asked = signals.asks_for_sample if run.shards is None else requests.sample  # of all that take part
    if asked and not requests.hurried:
        text = signals.sample_requested() or ""  # the process that speaks has it
        generate_on_request(run, held_out.previews, text, breakable=signals.breakable)
    if after.leave == "done" and run.progress.owes_evaluation:
        return measure_saved(run, requests, held_out, snapshots, signals)
    if after.leave is not None:
        return leave(run, after.leave, metrics=values)
    tell_saved(run)
    return None


def waits(run: Run, after: After, requests: Requests, found: Found) -> bool:
    """Tell, and say, whether a save waits: it is only due, and would replace the best, left standing by a rollback."""
    step = run.progress.step
    if found.improved or not run.best.lost_by_saving(step) or after.leave or after.next_stage or requests.save:
        return False
    if run.ranks.main:
        name = run.store.folder(step).name
        run.trackers.note(
            f"no checkpoint of this step {step:,}: {name}, from before the run went back, stays the best so far "
            f"({run.best.value:.4f})"
        )
    return True


def measure_saved(
    run: Run, requests: Requests, held_out: HeldOut, snapshots: Snapshots, signals: Signals
) -> Ending | None:
    """Evaluate a complete run that a signal had saved first, and save it again; the next signal leaves that out."""
    checkpointing.settle(run)
    tell_saved(run)
    signals.answered()
    if run.ranks.main:
        run.trackers.note("the run is complete and saved; its last evaluation follows, and a further signal ends that")
    values = measure(run, held_out, signals, Requests(), evaluates=True, speaks=False)
    if run.progress.owes_evaluation:
        return leave(run, "done")
    if unsound := recovery.look(run, values):
        recovery.take_back(run, unsound, snapshots, held_out.batches)
        return answer(run, requests, snapshots, held_out.batches)
    checkpointing.save(run, best=remember(run, values).improved, metrics=values)
    checkpointing.settle(run, metrics=values)
    measure(run, held_out, signals, Requests(), evaluates=False, speaks=True)
    return leave(run, "done")


def _place(run: Run) -> Place:
    step, curriculum = run.progress.step, run.optimizers.curriculum
    last = step == curriculum.total_steps
    ends_stage = step == curriculum.current.end and not last
    return Place(step, last=last, ends_stage=ends_stage, in_last_stage=curriculum.is_last)


def take_step(
    run: Run,
    batches: Sequence[Batch],
    snapshots: Snapshots,
    held_out: Sequence[Pieces] = (),
    *,
    again: bool = False,
) -> tuple[StepReport | None, Sequence[Batch]]:
    """Take a step, in smaller pieces where memory runs out, unless the guard refuses it.

    Returns its report, None where it was not taken, and the batches to try once more. `again` says that these have been
    tried before.
    """
    pieces, generators = batches, run.rng.state_dict()
    while pieces:
        try:
            report = train_step(run, pieces, measure=due(run.progress.step + 1, run.plan.recipe.train.measure_every))
        except DidNotFit as error:
            short = error.with_traceback(None)  # which holds the step's tensors
        else:
            if not report.refused:
                return report, ()
            attempt = Attempt(pieces, generators)
            retried = recovery.after_refusal(run, report, snapshots, held_out, again=again, attempt=attempt)
            return None, batches if retried else ()
        pieces = recovery.smaller_pieces(run, pieces, short, generators, snapshots)
    return None, ()
