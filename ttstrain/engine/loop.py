"""The training loop. Everything periodic is one visible line with its `due`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Literal, get_args

import torch

from ttstrain.engine import checkpointing
from ttstrain.engine.evaluate import evaluate
from ttstrain.engine.guard import Incident
from ttstrain.engine.peak import peak_flops
from ttstrain.engine.previews import Previews, speak
from ttstrain.engine.run import Run
from ttstrain.engine.signals import Request, Signals
from ttstrain.engine.snapshot import Snapshots
from ttstrain.engine.step import StepReport, train_step
from ttstrain.errors import DivergedError, Interrupted, OutOfMemoryError, Preempted
from ttstrain.task import Batch

Ending = Literal["done", "early stop", "stopped"]
EVALUATED = "eval/loss/"
MEASURE_EVERY = 10  # steps between per-group norms and update ratios: they copy the weights once


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What the run is measured on."""

    batches: Sequence[Batch]
    previews: Previews
    retained: Sequence[Batch] = ()  # of the replay data


@dataclass(frozen=True, slots=True)
class _Wish:
    """What someone outside asks for between two steps."""

    leave: Request | None = None
    save: bool = False


def train(run: Run, held_out: HeldOut, snapshots: Snapshots) -> Ending:
    """Train until the plan's last step, an early stop or a signal.

    Raises DivergedError, Interrupted or Preempted with a good checkpoint on disk, OutOfMemoryError with one where this
    process is alone.
    """
    plan, progress = run.plan, run.progress
    with Signals(run.folder, speak=run.ranks.main) as signals:
        snapshots.take(run.state, progress.step)
        if progress.step == 0:
            _evaluate(run, held_out)  # what the base can do
            _speak(run, held_out)
        while progress.step < plan.steps:
            started = perf_counter()
            batches = run.loader.next(plan.recipe.train.accumulate)
            waited = perf_counter() - started
            report = _step(run, batches, snapshots)
            if report.refused:
                _recover(run, report, snapshots)
                continue
            step, last = progress.step, progress.step == plan.steps
            wish = _wish(run, signals)
            ending: Ending | None = "done" if last else "stopped" if wish.leave == "stop" else None

            if last or due(step, plan.recipe.train.log_every):
                _log(run, report, batches, step_s=perf_counter() - started, data_s=waited)
            if last or due(step, plan.sample_every):
                _speak(run, held_out)
            improved, values = False, {}
            if last or due(step, plan.eval_every):
                values = _evaluate(run, held_out)
                improved = run.best.improves(step, values)
                if values and run.early_stop is not None and run.early_stop.update(values):
                    ending = ending or "early stop"
            if due(step, plan.snapshot_every):
                snapshots.take(run.state, step)
            if improved or ending or wish.leave or wish.save or due(step, plan.save_every):
                _save(run, best=improved, metrics=values)
            if ending or wish.leave:
                run.store.wait()
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
    leave, save = signals.requested(), signals.save_requested()
    if run.ranks.alone:
        return _Wish(leave, save=save)
    wishes = (*get_args(Request), "save")
    asked = torch.tensor([wish == leave or (wish == "save" and save) for wish in wishes], dtype=torch.int64)
    counts = dict(zip(wishes, run.ranks.sum(asked).tolist(), strict=True))
    return _Wish(next((wish for wish in get_args(Request) if counts[wish]), None), save=counts["save"] > 0)


def _step(run: Run, batches: Sequence[Batch], snapshots: Snapshots) -> StepReport:
    try:
        return train_step(run, batches, measure=due(run.progress.step + 1, MEASURE_EVERY))
    except torch.OutOfMemoryError as error:
        frames = max(batch.num_padded for batch in batches)
        good = _leave_good_checkpoint(run, snapshots)
        raise OutOfMemoryError(
            f"step {run.progress.step + 1} did not fit in memory: a micro-batch of {frames:,} frames",
            hint="set a smaller `data.batch_frames` and a larger `train.accumulate`, the same step in smaller pieces"
            + (f"; `{good}` is good" if good is not None else ""),
        ) from error


def _leave_good_checkpoint(run: Run, snapshots: Snapshots) -> Path | None:
    """Save the held state unless a later one is on disk; None where other ranks would have to join in and cannot."""
    run.store.wait()
    last = run.store.last()
    if last is not None and last >= run.store.folder(snapshots.step):
        return last
    if not run.ranks.alone:
        return None
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
    values = evaluate(run, held_out.batches, held_out.retained)
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
    folder = checkpointing.save(run, best=best, metrics=metrics)
    if run.ranks.main:
        run.trackers.note(f"checkpoint {folder.name}{' (best so far)' if best else ''}")


def _leave(run: Run, requested: Request) -> None:
    """Raise what a signal asks for, now that a checkpoint is on disk."""
    message = f"{requested} after step {run.progress.step}; saved `{run.store.folder(run.progress.step)}`"
    hint = f"continue with `ttstrain resume {run.folder}`"
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
    if action == "rollback" and run.guard.exhausted:
        action = "give up"
    notes: list[str] = []
    restored: int | None = None
    if action == "rollback":
        snapshots.restore(run.state)
        restored = snapshots.step
        run.guard.note_rollback()
        run.best.forget_after(restored)
        notes = _exclude(run, clips)
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
    if run.ranks.main:
        path = incident.write(run.folder / "incidents")
        run.trackers.incident(failed_at, action, f"{_sentence(incident)} ({path.name})")
    if action == "give up":
        folder = checkpointing.save_held(run, snapshots.content(), step=snapshots.step)
        raise DivergedError(
            f"step {failed_at + 1} failed again after {run.guard.rollbacks} rollbacks: {_sentence(incident)}",
            hint=f"`{folder}` is good; lower the LR (`optim.lr`) or look at the clips in `{run.folder / 'incidents'}`",
        )


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
    figures = f"loss {incident.loss:.4g}, gradient norm {incident.grad_norm:.4g}, clips {', '.join(incident.clips[:3])}"
    more = f" and {len(incident.clips) - 3} more" if len(incident.clips) > 3 else ""
    after = "" if incident.restored_step is None else f"; back to step {incident.restored_step}"
    return f"{what}: {figures}{more}{after}"
