"""The training loop. Everything periodic is one visible line with its `due`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Literal, NoReturn, get_args

import torch

from ttstrain.config.refuse import check_measured
from ttstrain.engine import checkpointing
from ttstrain.engine.evaluate import Pieces, evaluate
from ttstrain.engine.guard import Action, Incident
from ttstrain.engine.heap import keep_freed_memory
from ttstrain.engine.peak import peak_flops
from ttstrain.engine.precision import really_has_bf16
from ttstrain.engine.previews import Previews, speak
from ttstrain.engine.run import Run
from ttstrain.engine.signals import Request, Signals
from ttstrain.engine.snapshot import Snapshots
from ttstrain.engine.step import AVERAGE, STATISTICS, UPDATE_HINT, DidNotFit, StepReport, train_step
from ttstrain.engine.untrained import tell_of_untrained
from ttstrain.errors import DivergedError, Interrupted, OutOfMemoryError, PeerError, Preempted
from ttstrain.shell import quoted
from ttstrain.task import Batch

Ending = Literal["done", "early stop", "stopped"]
EVALUATED = "eval/loss/"
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


def train(run: Run, held_out: HeldOut, snapshots: Snapshots) -> Ending:
    """Train until the last step of the last stage, an early stop in it or a signal.

    Raises DivergedError, Interrupted, Preempted or OutOfMemoryError with a good checkpoint on disk.
    """
    plan, progress, curriculum = run.plan, run.progress, run.optimizers.curriculum
    keep_freed_memory(run.device)
    with Signals(run.folder, speak=run.ranks.main) as signals:
        _go_on_in_stage(run)
        snapshots.take(run.state, progress.step)
        if progress.step == 0:
            _evaluate(run, held_out)  # what the base can do
            _speak(run, held_out)
        while progress.step < curriculum.total_steps:
            started = perf_counter()
            batches = run.loader.next(plan.accumulate)
            waited = perf_counter() - started
            report = _step(run, batches, snapshots)
            if report is None:
                continue
            tell_of_untrained(run)
            step, last = progress.step, progress.step == curriculum.total_steps
            turn = step == curriculum.current.end and not last
            wish = _wish(run, signals)
            ending: Ending | None = "done" if last else "stopped" if wish.leave == "stop" else None

            if last or due(step, plan.recipe.train.log_every):
                _log(run, report, batches, step_s=perf_counter() - started, data_s=waited)
            if last or turn or due(step, plan.sample_every):
                _speak(run, held_out)
            values = _evaluate(run, held_out) if last or turn or due(step, plan.eval_every) else {}
            improved = run.best.improves(step, values)
            if values and run.early_stop is not None and run.early_stop.update(values):
                turn = not curriculum.is_last
                ending = ending or (None if turn else "early stop")
            if turn:
                _next_stage(run)
            if turn or due(step, plan.snapshot_every):
                snapshots.take(run.state, step)
            if improved or ending or turn or wish.leave or wish.save or due(step, plan.save_every):
                _save(run, best=improved, metrics=values)
            if ending or wish.leave:
                run.store.wait()
            _tell_saved(run)
            if ending:
                return ending
            if wish.leave:
                _leave(run, wish.leave)
    return "done"


def due(step: int, every: int | None) -> bool:
    """Tell whether something done every so many steps is due after this one."""
    return every is not None and step % every == 0


def _wish(run: Run, signals: Signals) -> _Wish:
    """Look for requests. Ranks agree after every step: what is asked of one is done by all."""
    leave, save = signals.requested(), signals.save_requested() or run.folder_is_lost()
    if run.ranks.alone:
        return _Wish(leave, save=save)
    wishes = (*get_args(Request), "save")
    asked = torch.tensor([wish == leave or (wish == "save" and save) for wish in wishes], dtype=torch.int64)
    counts = dict(zip(wishes, run.ranks.sum(asked).tolist(), strict=True))
    return _Wish(next((wish for wish in get_args(Request) if counts[wish]), None), save=counts["save"] > 0)


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


def _step(run: Run, batches: Sequence[Batch], snapshots: Snapshots) -> StepReport | None:
    """Take a step, in smaller pieces where memory runs out; None where it was not taken."""
    measure = due(run.progress.step + 1, run.plan.recipe.train.measure_every)
    generators = run.rng.state_dict()
    while True:
        try:
            report = train_step(run, batches, measure=measure)
        except DidNotFit as short:
            micro_batch, half_done, update = short.micro_batch, short.half_done, short.update
        else:
            if report.refused:
                _recover(run, report, snapshots)
                return None
            return report
        if run.device.type == "cuda":
            torch.cuda.empty_cache()
        _check_update(run, update, snapshots)
        run.rng.load_state_dict(generators)  # the step draws again, whatever it had drawn
        limit = _lower_limit(run, micro_batch, snapshots)
        goes_back = any(run.ranks.gather(half_done))
        if goes_back:
            snapshots.restore(run.state)
            run.best.forget_after(snapshots.step)
        _tell_of_memory(run, micro_batch, limit=limit, restored=snapshots.step if goes_back else None)
        if goes_back:
            return None
        batches = [piece for batch in batches for piece in run.loader.divided(batch, limit=limit)]


def _lower_limit(run: Run, micro_batch: Batch | None, snapshots: Snapshots) -> int:
    """Let no micro-batch take more than half of what did not fit, on any rank, from here on.

    Raises OutOfMemoryError, with a good checkpoint on disk, where that was a single clip.
    """
    own = None if micro_batch is None else (run.loader.half_of(micro_batch), list(micro_batch.ids))
    failed = [answer for answer in run.ranks.gather(own) if answer is not None]
    halves = [half for half, _ in failed if half is not None]
    if len(halves) < len(failed):
        clip = next(ids[0] for half, ids in failed if half is None)
        _give_up(
            run,
            snapshots,
            f"step {run.progress.step + 1} did not fit in memory with the clip `{clip}` alone",
            hint="leave long clips out (`data.max_s`), or train less of the model (`lora`, `frozen`)",
        )
    limit = min(halves if run.loader.limit is None else [*halves, run.loader.limit])
    run.loader.limit_to(limit)
    return limit


def _check_update(run: Run, update: str | None, snapshots: Snapshots) -> None:
    """Raise OutOfMemoryError, with a good checkpoint on disk, where some rank has no room to update weights."""
    found = next((one for one in run.ranks.gather(update) if one is not None), None)
    if found is None:
        return
    others = {AVERAGE: "the average of the weights", STATISTICS: "what is learned from the whole step's counts"}
    what = others.get(found, f"the weights of optimizer `{found}`")
    message = (
        f"memory ran out in step {run.progress.step + 1} while it updated {what}: "
        "that takes the same memory whatever the batch is, so smaller micro-batches would not help"
    )
    _give_up(run, snapshots, message, hint=UPDATE_HINT)


def _give_up(run: Run, snapshots: Snapshots, message: str, *, hint: str) -> NoReturn:
    """Raise OutOfMemoryError once a good checkpoint is on disk; one process speaks."""
    good = _leave_good_checkpoint(run, snapshots)
    run.ranks.barrier()  # a launcher ends all with the first, and the main process may still have been writing
    if not run.ranks.main:
        raise PeerError(message, exit_code=OutOfMemoryError.exit_code, told=True)
    raise OutOfMemoryError(message, hint=f"{hint}; `{good}` is good")


def _tell_of_memory(run: Run, micro_batch: Batch | None, *, limit: int, restored: int | None) -> None:
    """Write an incident: what did not fit, and what is done from here on."""
    own = [] if micro_batch is None else list(micro_batch.ids)
    incident = Incident(
        step=run.progress.step,
        kind="out_of_memory",
        action="halve",
        optimizer=None,
        loss=None,
        grad_norm=None,
        lrs={},
        clips=[clip for ids in run.ranks.gather(own) for clip in ids],
        restored_step=restored,
        notes=[f"micro-batches come in pieces of at most {limit:,} frames from here on; the step is the same"],
    )
    _tell(run, incident)


def _tell(run: Run, incident: Incident) -> None:
    if run.ranks.main:
        path = incident.write(run.folder / "incidents")
        run.trackers.incident(incident.step, incident.action, f"{_sentence(incident)} ({path.name})")


def _leave_good_checkpoint(run: Run, snapshots: Snapshots) -> Path:
    """Save the held state unless a later one is on disk."""
    run.store.wait()
    last = run.ranks.broadcast(run.store.last())
    if last is not None and last >= run.store.folder(snapshots.step):
        return last
    return checkpointing.save_held(run, snapshots.content(), step=snapshots.step)


def _log(run: Run, report: StepReport, batches: Sequence[Batch], *, step_s: float, data_s: float) -> None:
    if not run.ranks.main:
        return
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
    values["time/step_s"] = step_s
    values["time/data_s"] = data_s
    values["perf/frames_per_s"] = report.num_frames / step_s
    values["perf/padding_share"] = 1 - report.num_frames / report.num_padded
    if (mfu := _mfu(run, batches, step_s=step_s)) is not None:
        values["perf/mfu"] = mfu
    run.trackers.log(report.step, values)


def _mfu(run: Run, batches: Sequence[Batch], *, step_s: float) -> float | None:
    """Return the share of this process's device that useful arithmetic took; None where one of the two is unknown."""
    peak = peak_flops(run.device, run.precision.kind)
    if peak is None:
        return None
    counted = [flops for batch in batches if (flops := run.task.flops(batch)) is not None]
    return sum(counted) / step_s / peak if len(counted) == len(batches) else None


def _report(run: Run, values: Mapping[str, float]) -> None:
    if run.ranks.main and values:
        run.trackers.log(run.progress.step, values)


def _evaluate(run: Run, held_out: HeldOut) -> dict[str, float]:
    if not held_out.batches and not held_out.retained:
        return {}
    curriculum = run.optimizers.curriculum
    stage = held_out.stages.get(curriculum.current.stage.name)
    values = evaluate(run, held_out.batches, held_out.retained, stage=stage)
    if curriculum.staged and stage is None:
        losses = {key: value for key, value in values.items() if key.startswith(EVALUATED)}
        values |= {key.replace(EVALUATED, OF_STAGE): value for key, value in losses.items()}
    check_measured(run.plan.recipe, run.plan.origins, values)
    if run.progress.step == 0:
        run.best.improves(0, values)
    _report(run, values)
    if run.ranks.main:
        losses = {key.removeprefix(EVALUATED): loss for key, loss in values.items() if key.startswith(EVALUATED)}
        for remark in run.task.remarks(losses, step=run.progress.step):
            run.trackers.note(remark)
    return values


def _speak(run: Run, held_out: HeldOut) -> None:
    _report(run, speak(run, held_out.previews))


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


# ---------------------------------------------------------------- when the guard refused an update


def _recover(run: Run, report: StepReport, snapshots: Snapshots) -> None:
    """Skip the step or go back to the last good state. Ranks decide alike: what they judge is summed over them."""
    optimizer, verdict = next(iter(report.refused.items()))
    action = run.guard.decide(verdict.judgement, half_done=bool(report.stepped))
    if verdict.judgement == "overflow":
        return  # the loss scale has already been lowered
    failed_at = run.progress.step
    clips = [clip for own in run.ranks.gather(list(report.ids)) for clip in own]
    notes: list[str] = []
    if _fp16_is_to_blame(run, report, action):
        notes.append(_fall_back(run))
        action = "rollback" if report.stepped else "fall back"
    elif action == "rollback" and run.guard.exhausted:
        action = "give up"
    restored: int | None = None
    if action == "rollback":
        snapshots.restore(run.state)
        restored = snapshots.step
        run.guard.note_rollback()
        run.best.forget_after(restored)
        notes += [] if notes else _exclude(run, clips)
        if run.guard.lr_factor < 1:
            notes.append(f"LR multiplied by {run.guard.lr_factor:g} from here on")
    incident = Incident(
        step=failed_at,
        kind=verdict.judgement,
        action=action,
        optimizer=optimizer,
        loss=verdict.loss,
        grad_norm=verdict.grad_norm,
        lrs=dict(report.lrs),
        clips=clips,
        restored_step=restored,
        notes=notes,
    )
    _tell(run, incident)
    if action == "give up":
        folder = checkpointing.save_held(run, snapshots.content(), step=snapshots.step)
        raise DivergedError(
            f"step {failed_at + 1} failed again after {run.guard.rollbacks} rollbacks: {_sentence(incident)}",
            hint=f"`{folder}` is good; lower the LR (`optim.lr`) or look at the clips in `{run.folder / 'incidents'}`",
        )


def _fp16_is_to_blame(run: Run, report: StepReport, action: Action) -> bool:
    """Tell whether fp16's range is too small: the loss scale is at its end, or losses keep sending the run back.

    A single bad batch does not tell: half a step is taken back once before it does.
    """
    if run.precision.kind != "fp16":
        return False
    judgements = {verdict.judgement for verdict in report.refused.values()}
    keeps = action == "rollback" and (not report.stepped or run.guard.rollbacks > 0)
    return "non_finite_gradient" in judgements or ("non_finite_loss" in judgements and keeps)


def _fall_back(run: Run) -> str:
    """Compute in bf16 where every rank's device has it, else in fp32; return a note."""
    has_bf16 = all(run.ranks.gather(really_has_bf16(run.device)))
    run.precision.fall_back("bf16" if has_bf16 else "fp32")
    run.guard.forgive()
    return f"fp16 keeps overflowing: {run.precision.kind} from here on"


def _exclude(run: Run, clips: Sequence[str]) -> list[str]:
    """Leave the offending clips out from now on, unless nothing would be left."""
    if not run.plan.recipe.guard.exclude:
        return []
    if not run.loader.can_exclude(clips):
        return ["the batch's clips stay: without them no data would be left"]
    run.loader.exclude(clips)
    return [f"{len(set(clips))} clips left out from here on"]


def _sentence(incident: Incident) -> str:
    what = incident.kind.replace("_", " ")
    figures = [f"loss {incident.loss:.4g}"] if incident.loss is not None else []
    figures += [f"gradient norm {incident.grad_norm:.4g}"] if incident.grad_norm is not None else []
    more = f" and {len(incident.clips) - 3} more" if len(incident.clips) > 3 else ""
    clips = f"clips {', '.join(incident.clips[:3])}{more}"
    after = [] if incident.restored_step is None else [f"back to step {incident.restored_step}"]
    return "; ".join([f"{what}: {', '.join([*figures, clips])}", *incident.notes, *after])
