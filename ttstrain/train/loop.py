"""The training loop. Everything periodic is one visible line with its `due`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter
from typing import Literal, get_args

import torch

from ttstrain.checkpoint.pointers import is_checkpoint
from ttstrain.contract.data import Batch
from ttstrain.errors import DivergedError, Interrupted, Preempted
from ttstrain.infer.previews import Previews, speak
from ttstrain.plan.refuse import check_measured
from ttstrain.shell import quoted
from ttstrain.tensors.finite import named
from ttstrain.train import checkpointing, recovery
from ttstrain.train.evaluate import Pieces, evaluate
from ttstrain.train.heap import keep_freed_memory
from ttstrain.train.peak import peak_flops
from ttstrain.train.recovery import EVALUATED
from ttstrain.train.run import Run
from ttstrain.train.signals import HURRIED, Hurried, Request, Signals
from ttstrain.train.snapshot import Snapshots
from ttstrain.train.step import DidNotFit, StepReport, train_step
from ttstrain.train.untrained import tell_of_untrained

Ending = Literal["done", "early stop", "stopped"]
OF_STAGE = "eval/stage/"


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What the run is measured on."""

    batches: Sequence[Pieces]
    previews: Previews
    retained: Sequence[Pieces] = ()  # of the replay data
    stages: Mapping[str, Sequence[Pieces] | None] = field(default_factory=dict)  # of each stage's data; None: all


@dataclass(frozen=True, slots=True)
class _Wish:
    """What someone outside asks for between two steps."""

    leave: Request | None = None
    save: bool = False

    @property
    def hurried(self) -> bool:
        """Whether the state is to be saved before anything else."""
        return self.leave in HURRIED


@dataclass(frozen=True, slots=True)
class _Taken:
    """A step that was taken, and where its time went."""

    report: StepReport
    batches: Sequence[Batch]
    step_s: float  # data included
    data_s: float


@dataclass(frozen=True, slots=True)
class _Try:
    """What came of a step."""

    report: StepReport | None = None  # None: it was not taken
    again: Sequence[Batch] = ()  # batches to try once more


def train(run: Run, held_out: HeldOut, snapshots: Snapshots) -> Ending:
    """Train until the last step of the last stage, an early stop in it or a signal.

    Raises DivergedError, Interrupted, Preempted or OutOfMemoryError with a good checkpoint on disk; any other error
    once the run is saved. Raises CheckpointError where the state to start from is not finite.
    """
    plan, progress, curriculum = run.plan, run.progress, run.optimizers.curriculum
    keep_freed_memory(run.device)
    with Signals(run.folder, speak=run.ranks.main) as signals, recovery.saved_on_error(run, snapshots) as now:
        _go_on_in_stage(run)
        recovery.hold_first(run, snapshots)
        if (ending := _begin(run, held_out, signals)) is not None:
            return ending
        again: Sequence[Batch] = ()
        while progress.step < curriculum.total_steps:
            started = perf_counter()
            batches = again or run.loader.next(plan.accumulate)
            waited = perf_counter() - started
            now.in_step = True
            tried = _step(run, batches, snapshots, held_out.batches, again=bool(again))
            now.in_step = False
            report, again = tried.report, tried.again
            if report is None:
                if (ending := _answer(run, snapshots, held_out, _wish(run, signals))) is not None:
                    return ending
                continue
            recovery.after_good_step(run)
            tell_of_untrained(run)
            taken = _Taken(report, batches, step_s=perf_counter() - started, data_s=waited)
            if (ending := _finish_step(run, taken, held_out, snapshots, signals)) is not None:
                return ending
    return "done"


def _finish_step(run: Run, taken: _Taken, held_out: HeldOut, snapshots: Snapshots, signals: Signals) -> Ending | None:
    """Do all that is due after a step that was taken; what the state is kept for comes after a look at it."""
    plan, progress, curriculum = run.plan, run.progress, run.optimizers.curriculum
    step, last = progress.step, progress.step == curriculum.total_steps
    turn = step == curriculum.current.end and not last
    wish = _wish(run, signals)

    if last or due(step, plan.recipe.train.log_every):
        _log(run, taken)
    evaluates, speaks = (last or turn or due(step, every) for every in (plan.eval_every, plan.sample_every))
    values: Mapping[str, float] = {}
    if evaluates or speaks:
        values = _measure(run, held_out, signals, wish, evaluates=evaluates, speaks=speaks)
        wish = _wish(run, signals, before=wish)
    kept = last or turn or due(step, plan.snapshot_every) or due(step, plan.save_every)
    if (values or kept or wish.leave or wish.save) and (unsound := recovery.look(run, values)):
        recovery.take_back(run, unsound, snapshots, held_out.batches)
        return _answer(run, snapshots, held_out, wish)

    ending: Ending | None = "done" if last else "stopped" if wish.leave == "stop" else None
    improved = run.best.improves(step, values)
    if values and run.early_stop is not None and run.early_stop.update(values):
        turn = not curriculum.is_last
        ending = ending or (None if turn else "early stop")
    if turn:
        _next_stage(run)
    if turn or due(step, plan.snapshot_every):
        recovery.hold(run, snapshots)
    if improved or ending or turn or wish.leave or wish.save or due(step, plan.save_every):
        _save(run, best=improved, metrics=values)
    if ending or wish.leave:
        run.store.wait()
    _tell_saved(run)
    if ending is None and wish.leave:
        _leave(run, wish.leave)
    return ending


def due(step: int, every: int | None) -> bool:
    """Tell whether something done every so many steps is due after this one."""
    return every is not None and step % every == 0


def _wish(run: Run, signals: Signals, *, before: _Wish | None = None) -> _Wish:
    """Look for requests, beside those of `before`. Ranks agree: what one is asked for, all do."""
    before = before or _Wish()
    leave, save = signals.requested(), signals.save_requested() or before.save or run.folder_is_lost()
    if run.ranks.alone:
        return _Wish(leave, save=save)
    wishes = (*get_args(Request), "save")
    asked = torch.tensor([wish == leave or (wish == "save" and save) for wish in wishes], dtype=torch.int64)
    counts = dict(zip(wishes, run.ranks.sum(asked).tolist(), strict=True))
    return _Wish(next((wish for wish in get_args(Request) if counts[wish]), None), save=counts["save"] > 0)


def _begin(run: Run, held_out: HeldOut, signals: Signals) -> Ending | None:
    """Measure what the run starts with, or what the last session had no time to measure.

    Raises DivergedError where the held-out loss is not finite: no step could be judged by it.
    """
    progress, curriculum = run.progress, run.optimizers.curriculum
    first = progress.step == 0
    if not first and not progress.owes_evaluation:
        return None
    values = _measure(run, held_out, signals, _Wish(), evaluates=True, speaks=first)
    if bad := [key for key, value in values.items() if not math.isfinite(value)]:
        raise DivergedError(
            f"{named(bad)} is not finite before {'the first' if first else 'another'} step, though the weights are",
            hint="compute in fp32 (`train.precision=fp32`), look at the clips that are held out, or train without "
            "(`eval.every=null`)",
        )
    if first:
        run.guard.first_loss = recovery.main_loss(run, values)
    improved = run.best.improves(progress.step, values)
    turn = not first and bool(values) and run.early_stop is not None and run.early_stop.update(values)
    if turn and not curriculum.is_last:
        _next_stage(run)
    if not first and (improved or turn):
        _save(run, best=improved, metrics=values)
    if (wish := _wish(run, signals)).leave:
        return _save_and_leave(run, wish.leave)
    return "early stop" if turn and curriculum.is_last else None


def _measure(
    run: Run, held_out: HeldOut, signals: Signals, wish: _Wish, *, evaluates: bool, speaks: bool
) -> dict[str, float]:
    """Evaluate and speak; return the evaluation.

    In a hurry, or as soon as someone is, the rest is left out. An evaluation that was due is owed then.
    """
    values: dict[str, float] = {}
    run.progress.owes_evaluation = evaluates
    try:
        if wish.hurried:
            raise Hurried
        if evaluates:
            values = _evaluate(run, held_out, signals)
            run.progress.owes_evaluation = False
        if speaks and all(math.isfinite(value) for value in values.values()):
            _report(run, speak(run, held_out.previews, breakable=signals.breakable))
    except Hurried:
        if run.ranks.main:
            what = "the evaluation, which a resume makes up for" if run.progress.owes_evaluation else "samples"
            run.trackers.note(f"left out to save in time after step {run.progress.step}: {what}")
    return values


def _answer(run: Run, snapshots: Snapshots, held_out: HeldOut, wish: _Wish) -> Ending | None:
    """Do what is asked for where no step was taken. What is on disk already is not written again."""
    if not (wish.leave or wish.save):
        return None
    if unsound := recovery.look(run, {}):
        recovery.take_back(run, unsound, snapshots, held_out.batches)
    if wish.leave:
        return _save_and_leave(run, wish.leave)
    _save(run)
    return None


def _save_and_leave(run: Run, requested: Request) -> Ending:
    """Save the state unless its checkpoint is on disk; raises what a signal asks for."""
    run.store.wait()
    if not run.ranks.broadcast(is_checkpoint(run.store.folder(run.progress.step))):
        _save(run)
        run.store.wait()
    _tell_saved(run)
    _leave(run, requested)
    return "stopped"


# ---------------------------------------------------------------- stages


def _go_on_in_stage(run: Run) -> None:
    """Put loader and early stop where the run's stage says, at the start of a run and where one goes on."""
    curriculum = run.optimizers.curriculum
    curriculum.catch_up(run.progress.step)
    if not curriculum.staged:
        return
    run.loader.enter(curriculum.current.stage.name)
    if run.early_stop is not None:
        run.early_stop.config = curriculum.current.stage.early_stop
    _announce_stage(run)


def _next_stage(run: Run) -> None:
    """Let the running stage end here, and the next one begin. A rollback never goes back beyond this step."""
    place = run.optimizers.curriculum.end_stage(run.progress.step)
    run.loader.enter(place.stage.name)
    run.guard.begin_stage()
    if run.early_stop is not None:
        run.early_stop.restart(place.stage.early_stop)
    if run.best.metric is not None and run.best.metric.startswith(OF_STAGE):
        run.best.forget()  # it was measured on other clips
    _announce_stage(run)


def _announce_stage(run: Run) -> None:
    curriculum = run.optimizers.curriculum
    place = curriculum.current
    if run.ranks.main:
        where = f"stage {place.index + 1} of {len(curriculum.stages)}, `{place.stage.name}`"
        run.trackers.note(f"{where}: steps {place.start:,} to {place.end:,}, of {curriculum.total_steps:,}")


# ---------------------------------------------------------------- one step


def _step(
    run: Run,
    batches: Sequence[Batch],
    snapshots: Snapshots,
    held_out: Sequence[Pieces] = (),
    *,
    again: bool = False,
) -> _Try:
    """Take a step, in smaller pieces where memory runs out, unless the guard refuses it."""
    whole = batches
    measure = due(run.progress.step + 1, run.plan.recipe.train.measure_every)
    generators = run.rng.state_dict()
    while True:
        try:
            report = train_step(run, batches, measure=measure)
        except DidNotFit as short:
            micro_batch, half_done, update = short.micro_batch, short.half_done, short.update
        else:
            if report.refused:
                retry = recovery.after_refusal(run, report, snapshots, held_out, again=again)
                return _Try(again=whole if retry else ())
            return _Try(report)
        if run.device.type == "cuda":
            torch.cuda.empty_cache()
        recovery.check_update(run, update, snapshots)
        run.rng.load_state_dict(generators)  # the step draws again, whatever it had drawn
        limit = recovery.lower_limit(run, micro_batch, snapshots)
        goes_back = any(run.ranks.gather(half_done))
        if goes_back:
            snapshots.restore(run.state)
            run.best.forget_after(snapshots.step)
        recovery.tell_of_memory(run, micro_batch, limit=limit, restored=snapshots.step if goes_back else None)
        if goes_back:
            return _Try()
        batches = [piece for batch in batches for piece in run.loader.divided(batch, limit=limit)]


def _log(run: Run, taken: _Taken) -> None:
    if not run.ranks.main:
        return
    report = taken.report
    values: dict[str, float] = {}
    values |= {f"train/loss/{name}": value for name, value in report.losses.items()}
    values |= {f"train/metric/{name}": value for name, value in report.metrics.items()}
    values |= {f"optim/lr/{group}": lr for group, lr in report.lrs.items()}
    values |= {f"optim/grad_norm/{name}": norm for name, norm in report.grad_norms.items()}
    values |= {f"optim/group_norm/{group}": norm for group, norm in report.group_norms.items()}
    values |= {f"optim/update_ratio/{group}": ratio for group, ratio in report.update_ratios.items()}
    if run.ema is not None:
        values["ema/decay"] = run.ema.decay_at(report.step)
    if run.precision.kind == "fp16":
        values["optim/loss_scale"] = run.precision.scale
    if (curriculum := run.optimizers.curriculum).staged:
        values["train/stage"] = curriculum.at(report.step - 1).index + 1
        values["train/total_steps"] = curriculum.total_steps
    values["guard/skipped"] = run.guard.skipped
    values["guard/rollbacks"] = run.guard.rollbacks
    values["data/epoch"] = run.loader.epoch
    values["time/step_s"] = taken.step_s
    values["time/data_s"] = taken.data_s
    values["perf/frames_per_s"] = report.num_frames / taken.step_s
    values["perf/padding_share"] = 1 - report.num_frames / report.num_padded
    if (mfu := _mfu(run, taken.batches, step_s=taken.step_s)) is not None:
        values["perf/mfu"] = mfu
    run.trackers.log(report.step, values)


def _mfu(run: Run, batches: Sequence[Batch], *, step_s: float) -> float | None:
    """Return the share of this process's device that useful arithmetic took; None where one of the two is unknown."""
    peak = peak_flops(run.device, run.precision.kind, run.plan.recipe.train.tf32)
    if peak is None:
        return None
    counted = [flops for batch in batches if (flops := run.task.flops(batch)) is not None]
    return sum(counted) / step_s / peak if len(counted) == len(batches) else None


def _report(run: Run, values: Mapping[str, float]) -> None:
    if run.ranks.main and values:
        run.trackers.log(run.progress.step, values)


def _evaluate(run: Run, held_out: HeldOut, signals: Signals) -> dict[str, float]:
    if not held_out.batches and not held_out.retained:
        return {}
    curriculum = run.optimizers.curriculum
    stage = held_out.stages.get(curriculum.current.stage.name)

    def measured() -> dict[str, float]:
        return evaluate(run, held_out.batches, held_out.retained, stage=stage, hurried=lambda: signals.hurried)

    values = measured()
    if run.precision.kind == "fp16" and not all(math.isfinite(value) for value in values.values()):
        note = recovery.fall_back(run)
        if run.ranks.main:
            run.trackers.incident(run.progress.step, "fall back", f"the evaluation was not finite; {note}")
        values = measured()
    if curriculum.staged and stage is None:
        losses = {key: value for key, value in values.items() if key.startswith(EVALUATED)}
        values |= {key.replace(EVALUATED, OF_STAGE): value for key, value in losses.items()}
    check_measured(run.plan.recipe, run.plan.origins, values)
    _report(run, values)
    if run.ranks.main:
        losses = {key.removeprefix(EVALUATED): loss for key, loss in values.items() if key.startswith(EVALUATED)}
        with suppress(Exception):  # a remark is to look at
            for remark in run.task.remarks(losses, step=run.progress.step):
                run.trackers.note(remark)
    return values


def _save(run: Run, *, best: bool = False, metrics: Mapping[str, float] | None = None) -> None:
    checkpointing.save(run, best=best, metrics=metrics)


def _tell_saved(run: Run) -> None:
    """Say which checkpoints have come to lie on the disk. Raises the error of one that could not be written."""
    for line in run.store.news():
        run.trackers.note(line)


def _leave(run: Run, requested: Request) -> None:
    """Raise what a signal asks for, now that a checkpoint is on disk."""
    message = f"{requested} after step {run.progress.step}; saved `{run.store.folder(run.progress.step)}`"
    hint = f"continue with `ttstrain resume {quoted(run.folder)}`"
    if requested == "preempted":
        raise Preempted(message, hint=hint)
    if requested == "interrupted":
        raise Interrupted(message, hint=hint)
