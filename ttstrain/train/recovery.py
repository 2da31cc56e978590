"""When a step goes wrong: skip it, go back to the last good state, take it in smaller pieces, or leave a good state.

A state is looked at before it is kept, here and in checkpoints: what holds NaN or infinity is taken back. Ranks decide
alike: what they judge is summed or gathered over them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch

from ttstrain.contract.data import Batch
from ttstrain.errors import (
    CheckpointError,
    DivergedError,
    FolderLostError,
    Interrupted,
    OutOfMemoryError,
    PeerError,
    Preempted,
    UserError,
    first_line,
)
from ttstrain.tensors.finite import named, non_finite
from ttstrain.train import checkpointing
from ttstrain.train.evaluate import evaluate
from ttstrain.train.evaluation_loop import Pieces
from ttstrain.train.guard import Accused, Action, Incident
from ttstrain.train.precision import really_has_bf16
from ttstrain.train.run import Run
from ttstrain.train.snapshot import Snapshots
from ttstrain.train.step import AVERAGE, STATISTICS, UPDATE_HINT, DidNotFit, StepReport

EVALUATED = "eval/loss/"

# ---------------------------------------------------------------- what may be kept


@dataclass(frozen=True, slots=True)
class Unsound:
    """Why the state of the run, or what was measured of it, must not be kept."""

    kind: Literal["non_finite_eval", "non_finite_state"]
    names: Sequence[str]  # of figures or of tensors


def look(run: Run, values: Mapping[str, float]) -> Unsound | None:
    """Look at an evaluation, if there was one, and at every tensor of the state; None where all is finite."""
    figures = [key for key, value in values.items() if not math.isfinite(value)]
    if figures:
        return Unsound("non_finite_eval", figures)
    found = [name for own in run.ranks.gather(non_finite(run.state.state_dict())) for name in own]
    return Unsound("non_finite_state", list(dict.fromkeys(found))) if found else None


def hold(run: Run, snapshots: Snapshots) -> None:
    """Hold the state for a rollback; it was looked at."""
    snapshots.take(run.state, run.progress.step)
    run.guard.hold()


def hold_first(run: Run, snapshots: Snapshots) -> None:
    """Hold the state that training starts from. Raises CheckpointError, in one process, where it is not finite."""
    unsound = look(run, {})
    if unsound is None:
        hold(run, snapshots)
        return
    message = f"the weights or state to start from hold NaN or infinity: {named(list(unsound.names))}"
    if not run.ranks.main:
        raise PeerError(message, exit_code=CheckpointError.exit_code, told=True)
    raise CheckpointError(message, hint="take another base, or an earlier checkpoint (`ttstrain resume RUN --from`)")


# ---------------------------------------------------------------- when the guard refused an update


def after_refusal(
    run: Run, report: StepReport, snapshots: Snapshots, held_out: Sequence[Pieces], *, again: bool
) -> bool:
    """Skip the step or go back to the last good state; True where the same batch shall be tried once more.

    A batch is tried again before anything is concluded: what goes well then was an accident. One that fails `again`
    accuses its clips. Raises DivergedError, with the held state on disk, where the rollbacks are spent.
    """
    optimizer, verdict = next(iter(report.refused.items()))
    action = run.guard.decide(verdict.judgement, half_done=bool(report.stepped))
    if verdict.judgement == "overflow":
        return False  # the loss scale has already been lowered
    failed_at = run.progress.step
    clips = [clip for own in run.ranks.gather(list(report.ids)) for clip in own]
    notes: list[str] = []
    retry = not again and (run.guard.first_skip if action == "skip" else bool(report.stepped))
    if _fp16_is_to_blame(run, report, action):
        notes.append(fall_back(run))
        action, retry = "rollback" if report.stepped else "fall back", False
    elif action == "rollback" and run.guard.exhausted:
        action = "give up"
    elif again and report.stepped:
        notes += _exclude(run, clips)  # on the held weights
    elif again and action == "skip":
        run.guard.accused = Accused(verdict.judgement, clips)
    restored: int | None = None
    if action == "rollback":
        restored = snapshots.step
        notes += _go_back(run, snapshots)
    if retry and action != "give up":
        notes.append("the same batch is tried once more")
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
    tell(run, incident)
    if action == "give up":
        _give_up(run, snapshots, held_out, f"step {failed_at + 1} failed again", incident)
    return retry


def after_good_step(run: Run) -> None:
    """Leave out the clips that a batch before was refused for, now that others have gone well on the same weights."""
    convicted = run.guard.convict()
    if convicted is None:
        return
    left_out = run.loader.can_exclude(convicted.clips)
    if not (notes := _exclude(run, convicted.clips)):
        return
    incident = Incident(
        step=run.progress.step,
        kind=convicted.judgement,
        action="exclude" if left_out else "skip",
        optimizer=None,
        loss=None,
        grad_norm=None,
        lrs={},
        clips=convicted.clips,
        notes=[*notes, "each was in two batches that were refused twice, while other batches went well"],
    )
    tell(run, incident)


def take_back(run: Run, unsound: Unsound, snapshots: Snapshots, held_out: Sequence[Pieces]) -> None:
    """Go back to the last good state from one that must not be kept.

    Raises DivergedError, with the held state on disk, where the rollbacks are spent.
    """
    action: Action = "give up" if run.guard.exhausted else "rollback"
    failed_at = run.progress.step
    notes = [f"not finite: {named(list(unsound.names))}"]
    if action == "rollback":
        notes += _go_back(run, snapshots)
    incident = Incident(
        step=failed_at,
        kind=unsound.kind,
        action=action,
        optimizer=None,
        loss=None,
        grad_norm=None,
        lrs={},
        clips=[],
        restored_step=snapshots.step if action == "rollback" else None,
        notes=notes,
    )
    tell(run, incident)
    if action == "give up":
        _give_up(run, snapshots, held_out, f"the state after step {failed_at} holds NaN or infinity", incident)


def _go_back(run: Run, snapshots: Snapshots) -> list[str]:
    snapshots.restore(run.state)
    run.guard.note_rollback()
    lowered = [f"LR multiplied by {run.guard.lr_factor:g} from here on"] if run.guard.lr_factor < 1 else []
    return [*lowered, *checkpointing.keep_best_after(run, snapshots.step)]


def _give_up(run: Run, snapshots: Snapshots, held_out: Sequence[Pieces], message: str, incident: Incident) -> NoReturn:
    """Raise DivergedError once the held state is on disk, and say what it is worth."""
    folder = checkpointing.save_held(run, snapshots.content(), step=snapshots.step)
    snapshots.restore(run.state)
    raise DivergedError(
        f"{message} after {run.guard.rollbacks} rollbacks: {_sentence(incident)}",
        hint=f"{_worth(run, folder, held_out)}; lower the LR (`optim.lr`) or look at the clips in "
        f"`{run.folder / 'incidents'}`",
    )


def _worth(run: Run, folder: Path, held_out: Sequence[Pieces]) -> str:
    """Compare the held state, which the run is in, with what the run began with: by the held-out loss."""
    first, loss = run.guard.first_loss, None
    with suppress(OutOfMemoryError):
        loss = main_loss(run, evaluate(run, held_out)) if held_out else None
    if loss is None or first is None:
        return f"`{folder}` holds the last finite state, which was not compared with the base: nothing is held out"
    figures = f"held-out loss {loss:.4g}, before the first step {first:.4g}"
    if loss <= first:  # NaN is not
        return f"`{folder}` is good ({figures})"
    best = run.ranks.broadcast(run.store.best())
    better = f"`{best}` was better" if best is not None else "no checkpoint of this run is better than its base"
    return f"`{folder}` is finite, but not better than the base ({figures}); {better}"


def main_loss(run: Run, values: Mapping[str, float]) -> float | None:
    """Choose the held-out loss that states are compared by: that of `checkpoint.best`, else `total`, else the first."""
    losses = [key for key in values if key.startswith(EVALUATED)]
    key = next((key for key in (run.best.metric, f"{EVALUATED}total", *losses) if key in losses), None)
    return None if key is None else values[key]


def _fp16_is_to_blame(run: Run, report: StepReport, action: Action) -> bool:
    """Tell whether fp16's range is too small: the loss scale is at its end, or losses keep sending the run back.

    A single bad batch does not tell: half a step is taken back once before it does.
    """
    if run.precision.kind != "fp16":
        return False
    judgements = {verdict.judgement for verdict in report.refused.values()}
    keeps = action == "rollback" and (not report.stepped or run.guard.rollbacks > 0)
    return "non_finite_gradient" in judgements or ("non_finite_loss" in judgements and keeps)


def fall_back(run: Run) -> str:
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


# ---------------------------------------------------------------- when memory ran out


def smaller_pieces(
    run: Run, batches: Sequence[Batch], short: DidNotFit, generators: Mapping[str, Any], snapshots: Snapshots
) -> Sequence[Batch]:
    """Divide the batches of a step that did not fit, to take it again with the same random numbers.

    Returns none where weights had moved already: the run is back at the held state then. Raises OutOfMemoryError, with
    a good checkpoint on disk, where smaller pieces cannot help.
    """
    if run.device.type == "cuda":
        torch.cuda.empty_cache()
    check_update(run, short.update, snapshots)
    run.rng.load_state_dict(generators)  # the step draws again, whatever it had drawn
    limit = lower_limit(run, short.micro_batch, snapshots)
    goes_back = any(run.ranks.gather(short.half_done))
    notes: list[str] = []
    if goes_back:
        snapshots.restore(run.state)
        notes = checkpointing.keep_best_after(run, snapshots.step)
    tell_of_memory(run, short.micro_batch, limit=limit, restored=snapshots.step if goes_back else None, notes=notes)
    return [] if goes_back else [piece for batch in batches for piece in run.loader.divided(batch, limit=limit)]


def lower_limit(run: Run, micro_batch: Batch | None, snapshots: Snapshots) -> int:
    """Let no micro-batch take more than half of what did not fit, on any rank, from here on.

    Raises OutOfMemoryError, with a good checkpoint on disk, where that was a single clip.
    """
    own = None if micro_batch is None else (run.loader.half_of(micro_batch), list(micro_batch.ids))
    failed = [answer for answer in run.ranks.gather(own) if answer is not None]
    halves = [half for half, _ in failed if half is not None]
    if len(halves) < len(failed):
        clip = next(ids[0] for half, ids in failed if half is None)
        _leave_for_memory(
            run,
            snapshots,
            f"step {run.progress.step + 1} did not fit in memory with the clip `{clip}` alone",
            hint="leave long clips out (`data.max_s`), or train less of the model (`lora`, `frozen`)",
        )
    limit = min(halves if run.loader.limit is None else [*halves, run.loader.limit])
    run.loader.limit_to(limit)
    return limit


def check_update(run: Run, update: str | None, snapshots: Snapshots) -> None:
    """Raise OutOfMemoryError, with a good checkpoint on disk, where some rank has no room to update weights."""
    found = next((one for one in run.ranks.gather(update) if one is not None), None)
    if found is None:
        return
    others = {AVERAGE: "the EMA weights", STATISTICS: "what is learned from the whole step's counts"}
    what = others.get(found, f"the weights of optimizer `{found}`")
    message = (
        f"memory ran out in step {run.progress.step + 1} while it updated {what}: "
        "that takes the same memory whatever the batch is, so smaller micro-batches would not help"
    )
    _leave_for_memory(run, snapshots, message, hint=UPDATE_HINT)


def _leave_for_memory(run: Run, snapshots: Snapshots, message: str, *, hint: str) -> NoReturn:
    """Raise OutOfMemoryError once a good checkpoint is on disk; one process speaks."""
    good = _leave_good_checkpoint(run, snapshots)
    run.ranks.barrier()  # a launcher ends all with the first, and the main process may still have been writing
    if not run.ranks.main:
        raise PeerError(message, exit_code=OutOfMemoryError.exit_code, told=True)
    raise OutOfMemoryError(message, hint=f"{hint}; `{good}` is saved", saved=True)


def tell_of_memory(
    run: Run, micro_batch: Batch | None, *, limit: int, restored: int | None, notes: Sequence[str] = ()
) -> None:
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
        notes=[f"micro-batches come in pieces of at most {limit:,} frames from here on; the step is the same", *notes],
    )
    tell(run, incident)


def tell(run: Run, incident: Incident) -> None:
    """Write an incident into the run's folder and show it; a disk that does not take it is no second incident."""
    if not run.ranks.main:
        return
    try:
        where = incident.write(run.folder / "incidents").name
    except OSError as error:
        where = f"not written: {error.strerror or error}"
    run.trackers.incident(incident.step, incident.action, f"{_sentence(incident)} ({where})")


def _leave_good_checkpoint(run: Run, snapshots: Snapshots) -> Path:
    """Save the held state unless a later one is on disk."""
    run.store.wait()
    last = run.ranks.broadcast(run.store.last())
    if last is not None and last >= run.store.folder(snapshots.step):
        return last
    return checkpointing.save_held(run, snapshots.content(), step=snapshots.step)


def _sentence(incident: Incident) -> str:
    what = incident.kind.replace("_", " ")
    figures = [f"loss {incident.loss:.4g}"] if incident.loss is not None else []
    figures += [f"gradient norm {incident.grad_norm:.4g}"] if incident.grad_norm is not None else []
    more = f" and {len(incident.clips) - 3} more" if len(incident.clips) > 3 else ""
    figures += [f"clips {', '.join(incident.clips[:3])}{more}"] if incident.clips else []
    after = [] if incident.restored_step is None else [f"back to step {incident.restored_step}"]
    return "; ".join([f"{what}: {', '.join(figures)}" if figures else what, *incident.notes, *after])


# ---------------------------------------------------------------- when something else ends the run


@dataclass(slots=True)
class Whereabouts:
    """Where the loop is when an error comes."""

    in_step: bool = False  # weights may have moved in part

    @contextmanager
    def in_a_step(self) -> Iterator[None]:
        """Be in a step until it is over; an error inside leaves the mark."""
        self.in_step = True
        yield
        self.in_step = False


@contextmanager
def saved_on_error(run: Run, snapshots: Snapshots) -> Iterator[Whereabouts]:
    """Save the run before an error ends it that has not seen to that: as it stands, or as held if it was in a step.

    The main process saves it alone: the others may not be there any more. What a run starts with needs no saving.
    """
    whereabouts = Whereabouts()
    try:
        yield whereabouts
    except (DivergedError, FolderLostError, Interrupted, Preempted):
        raise
    except Exception as error:
        seen_to = isinstance(error, OutOfMemoryError) and error.saved
        if not seen_to and run.ranks.main and snapshots.step >= 0:
            what = error.message if isinstance(error, UserError) else f"{type(error).__name__}: {first_line(error)}"
            _save_alone(run, snapshots, whereabouts, what)
        raise


def _save_alone(run: Run, snapshots: Snapshots, whereabouts: Whereabouts, what: str) -> None:
    with suppress(Exception):
        run.store.wait()
    try:
        step = snapshots.step
        content: Mapping[str, Any] | None = None
        if not whereabouts.in_step and not non_finite(state := run.state.state_dict()):
            step, content = run.progress.step, state
        if step == 0:
            return
        if run.folder_is_lost():
            content = content or snapshots.content()
            generators, meta = [content[checkpointing.PER_RANK]], checkpointing.describe(run, metrics={}, step=step)
            lost = checkpointing.write_beside(run, checkpointing.shared(content), generators, meta)
            raise checkpointing.folder_lost(run, lost, step=step)
        place = run.store.last()
        if place is None or place < run.store.folder(step):
            place = checkpointing.save_held(run, content or snapshots.content(), step=step, alone=True)
        run.trackers.note(f"WARNING: the run ends ({what}); `{place}` is saved")
    except FolderLostError:
        raise
    except Exception as error:
        run.trackers.note(f"WARNING: the run ends ({what}), and could not be saved: {first_line(error)}")
