"""Failed steps: skip, roll back to the last good state, split the batch into pieces, or save a good state and end.

A state is checked before it is snapshotted or saved: one with NaN or infinity is rolled back. All ranks decide alike,
because decisions use values that are summed or gathered over ranks.
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
from ttstrain.train.forensics import Attempt, Refused, examine
from ttstrain.train.guard import Accused, Action, Finding, Incident, UpdateVerdict
from ttstrain.train.incidents import sentence, tell
from ttstrain.train.precision import really_has_bf16
from ttstrain.train.run import Run
from ttstrain.train.snapshot import PER_RANK, Snapshots
from ttstrain.train.spent import HOLD
from ttstrain.train.step import EMA_WEIGHTS, STATISTICS, UPDATE_HINT, DidNotFit, StepReport

EVALUATED = "eval/loss/"

# ---------------------------------------------------------------- checking the state


@dataclass(frozen=True, slots=True)
class Unsound:
    """Non-finite values in the run's state or in an evaluation: the state must not be snapshotted or saved."""

    kind: Literal["non_finite_eval", "non_finite_state"]
    names: Sequence[str]  # of metrics or of tensors


def look(run: Run, values: Mapping[str, float]) -> Unsound | None:
    """Check an evaluation's values, if any, and every tensor of the state; None if all are finite."""
    figures = [key for key, value in values.items() if not math.isfinite(value)]
    if figures:
        return Unsound("non_finite_eval", figures)
    found = [name for own in run.ranks.gather(non_finite(run.state.state_dict())) for name in own]
    return Unsound("non_finite_state", list(dict.fromkeys(found))) if found else None


def hold(run: Run, snapshots: Snapshots) -> None:
    """Take a snapshot for rollbacks; the state must have been checked."""
    with run.spent.on(HOLD):
        run.store.wait_for_held()  # a checkpoint may still be written from the last snapshot
        snapshots.take(run.state, run.progress.step)
        if run.shards is None:  # should this process have to save alone, once the others are gone
            snapshots.generators = run.ranks.gather(run.rng.state_dict())
        run.guard.hold()


def hold_first(run: Run, snapshots: Snapshots) -> None:
    """Take a snapshot of the starting state. Raises CheckpointError, PeerError on other ranks, if it is not finite."""
    unsound = look(run, {})
    if unsound is None:
        hold(run, snapshots)
        return
    message = f"the weights or state to start from hold NaN or infinity: {named(list(unsound.names))}"
    if not run.ranks.main:
        raise PeerError(message, exit_code=CheckpointError.exit_code, told=True)
    raise CheckpointError(message, hint="take another base, or an earlier checkpoint (`ttstrain resume RUN --from`)")


# ---------------------------------------------------------------- after a refused update


def after_refusal(
    run: Run,
    report: StepReport,
    snapshots: Snapshots,
    held_out: Sequence[Pieces],
    *,
    again: bool,
    attempt: Attempt | None = None,
) -> bool:
    """Skip the step or roll back; return whether the same batch shall be tried once more.

    A batch is tried again first, since the failure may depend on that step's random numbers. If it fails `again`, its
    clips become suspects: those that fail alone, if there are any. With the `attempt`, the incident says why it failed.
    Raises DivergedError, with the snapshot saved, if no rollbacks are left.
    """
    optimizer, verdict = next(iter(report.refused.items()))
    action = run.guard.decide(verdict.judgement, half_done=bool(report.stepped))
    if verdict.judgement == "overflow":
        return False  # the loss scale has already been lowered
    failed_at = run.progress.step
    clips = [clip for own in run.ranks.gather(list(report.ids)) for clip in own]
    finding = _examined(run, optimizer, verdict, attempt)
    suspects = clips if finding is None or not finding.clips else list(finding.clips)
    notes: list[str] = []
    retry = not again and (run.guard.first_skip if action == "skip" else bool(report.stepped))
    if _fp16_is_to_blame(run, report, action):
        notes.append(fall_back(run))
        action, retry = "rollback" if report.stepped else "fall back", False
    elif action == "rollback" and run.guard.exhausted:
        action = "give up"
    elif again and report.stepped:
        notes += _exclude(run, suspects)  # the retry ran on the snapshot's weights: the clips are to blame
    elif again and action == "skip":
        run.guard.accused = Accused(verdict.judgement, suspects)
    elif action == "rollback" and not report.stepped and finding is not None and _convicts(run, finding, clips):
        notes += _exclude_again_found(run, finding.clips)
    restored: int | None = None
    if action == "rollback":
        restored = snapshots.step
        notes += _go_back(run, snapshots, groups=() if finding is None else finding.groups)
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
        finding=finding,
    )
    tell(run, incident)
    if action == "give up":
        _give_up(run, snapshots, held_out, f"step {failed_at + 1} failed again", incident)
    return retry


def _examined(run: Run, optimizer: str, verdict: UpdateVerdict, attempt: Attempt | None) -> Finding | None:
    """Examine a refused batch; None where there is nothing to examine, or weights are sharded: each process examines
    its own clips, and a sharded forward needs all processes.
    """
    if attempt is None or run.shards is not None or not run.guard.may_examine():
        return None
    return examine(run, Refused(optimizer, verdict, attempt))


def after_good_step(run: Run) -> None:
    """Exclude clips whose batches were refused twice, now that another batch has succeeded on the same weights."""
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
    """Roll back from a state with non-finite values.

    Raises DivergedError, with the snapshot saved, if no rollbacks are left.
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


def _go_back(run: Run, snapshots: Snapshots, *, groups: Sequence[str] = ()) -> list[str]:
    snapshots.restore(run.state)
    lowered = run.guard.note_rollback(groups=groups)
    return [*([] if lowered is None else [lowered]), *checkpointing.keep_best_after(run, snapshots.step)]


def _give_up(run: Run, snapshots: Snapshots, held_out: Sequence[Pieces], message: str, incident: Incident) -> NoReturn:
    """Save the snapshot, then raise DivergedError with its held-out loss in the hint."""
    folder = checkpointing.save_held(run, checkpointing.held_content(run, snapshots), step=snapshots.step)
    snapshots.restore(run.state)
    raise DivergedError(
        f"{message} after {run.guard.rollbacks} rollbacks: {sentence(incident)}",
        hint=f"{_worth(run, folder, held_out)}; lower the LR (`optim.lr`) or look at the clips in "
        f"`{run.folder / 'incidents'}`",
    )


def _worth(run: Run, folder: Path, held_out: Sequence[Pieces]) -> str:
    """Compare the held-out loss of the current (restored) state with the loss before the first step."""
    first, loss = run.guard.first_loss, None
    with suppress(OutOfMemoryError):
        loss = main_loss(run, evaluate(run, held_out)) if held_out else None
    if loss is None or first is None:
        return f"`{folder}` holds the last finite state, which was not compared with the base: nothing is held out"
    figures = f"held-out loss {loss:.4g}, before the first step {first:.4g}"
    if loss <= first:  # False for NaN
        return f"`{folder}` is good ({figures})"
    best = run.ranks.broadcast(run.store.best())
    better = f"`{best}` was better" if best is not None else "no checkpoint of this run is better than its base"
    return f"`{folder}` is finite, but not better than the base ({figures}); {better}"


def main_loss(run: Run, values: Mapping[str, float]) -> float | None:
    """Return the held-out loss for comparing states: that of `checkpoint.best`, else `total`, else the first."""
    losses = [key for key in values if key.startswith(EVALUATED)]
    key = next((key for key in (run.best.metric, f"{EVALUATED}total", *losses) if key in losses), None)
    return None if key is None else values[key]


def _fp16_is_to_blame(run: Run, report: StepReport, action: Action) -> bool:
    """Tell whether fp16's range is too small: the loss scale is at its minimum, or losses keep causing rollbacks.

    A single bad batch does not count: the first rollback from half a step is not blamed on fp16.
    """
    if run.precision.kind != "fp16":
        return False
    judgements = {verdict.judgement for verdict in report.refused.values()}
    keeps = action == "rollback" and (not report.stepped or run.guard.rollbacks > 0)
    return "non_finite_gradient" in judgements or ("non_finite_loss" in judgements and keeps)


def fall_back(run: Run) -> str:
    """Switch to bf16 if every rank's device has it, else to fp32; return a note."""
    has_bf16 = all(run.ranks.gather(really_has_bf16(run.device)))
    run.precision.fall_back("bf16" if has_bf16 else "fp32")
    run.guard.forgive()
    return f"fp16 keeps overflowing: {run.precision.kind} from here on"


def _exclude(run: Run, clips: Sequence[str]) -> list[str]:
    """Exclude clips from now on, unless no data would be left; return notes."""
    if not run.plan.recipe.guard.exclude:
        return []
    if not run.loader.can_exclude(clips):
        return ["the batch's clips stay: without them no data would be left"]
    run.loader.exclude(clips)
    return [f"{len(set(clips))} clips left out from here on"]


def _convicts(run: Run, finding: Finding, clips: Sequence[str]) -> bool:
    """Tell whether clips that fail alone are at fault and not the weights, although no good step shows that.

    Either others of the same batch do not fail, or the guard never waits for a good step.
    """
    return run.guard.never_skips or set(finding.clips) < set(clips)


def _exclude_again_found(run: Run, clips: Sequence[str]) -> list[str]:
    """Exclude clips that failed alone and did so before another rollback.

    No good step convicts them where every refusal rolls back, or where they are in every batch.
    """
    guilty = [clip for clip in clips if clip in run.guard.suspects]
    run.guard.suspects |= set(clips)
    return _exclude(run, guilty) if guilty else []


# ---------------------------------------------------------------- out of memory


def smaller_pieces(
    run: Run, batches: Sequence[Batch], short: DidNotFit, generators: Mapping[str, Any], snapshots: Snapshots
) -> Sequence[Batch]:
    """Split the batches of a step that did not fit, and restore the random states, so that it can be taken again.

    If an optimizer may have stepped already, rolls back and returns no batches. Raises OutOfMemoryError, with a good
    checkpoint on disk, if smaller pieces cannot help.
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
    """Limit micro-batches, on all ranks, to half the frames of the one that did not fit; return the limit.

    Raises OutOfMemoryError, with a good checkpoint on disk, if that was a single clip.
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
    """Raise OutOfMemoryError, with a good checkpoint on disk, if a rank's memory ran out while updating weights."""
    found = next((one for one in run.ranks.gather(update) if one is not None), None)
    if found is None:
        return
    others = {EMA_WEIGHTS: "the EMA weights", STATISTICS: "what is learned from the whole step's counts"}
    what = others.get(found, f"the weights of optimizer `{found}`")
    message = (
        f"memory ran out in step {run.progress.step + 1} while it updated {what}: "
        "that takes the same memory whatever the batch is, so smaller micro-batches would not help"
    )
    _leave_for_memory(run, snapshots, message, hint=UPDATE_HINT)


def _leave_for_memory(run: Run, snapshots: Snapshots, message: str, *, hint: str) -> NoReturn:
    """Raise OutOfMemoryError once a good checkpoint is on disk; only the main rank prints it."""
    good = _leave_good_checkpoint(run, snapshots)
    run.ranks.barrier()  # a launcher ends all processes with the first, and the main one may still be writing
    if not run.ranks.main:
        raise PeerError(message, exit_code=OutOfMemoryError.exit_code, told=True)
    raise OutOfMemoryError(message, hint=f"{hint}; `{good}` is saved", saved=True)


def tell_of_memory(
    run: Run, micro_batch: Batch | None, *, limit: int, restored: int | None, notes: Sequence[str] = ()
) -> None:
    """Report an out-of-memory incident: what did not fit, and the new limit."""
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


def _leave_good_checkpoint(run: Run, snapshots: Snapshots) -> Path:
    """Save the snapshot unless a later checkpoint is on disk; return the folder."""
    checkpointing.look_for_failure(run, wait=True)
    last = run.ranks.broadcast(run.store.last())
    if last is not None and last >= run.store.folder(snapshots.step):
        return last
    return checkpointing.save_held(run, checkpointing.held_content(run, snapshots), step=snapshots.step)


# ---------------------------------------------------------------- other errors


@dataclass(slots=True)
class Whereabouts:
    """Where the loop is when an error occurs."""

    in_step: bool = False  # some weights may have been updated and others not

    @contextmanager
    def in_a_step(self) -> Iterator[None]:
        """Set `in_step` until the step is complete; after an error it stays set."""
        self.in_step = True
        yield
        self.in_step = False


@contextmanager
def saved_on_error(run: Run, snapshots: Snapshots) -> Iterator[Whereabouts]:
    """Save the run if an error ends it and did not save it: the current state, or the snapshot if in a step.

    The main rank saves by itself: the others may be gone. Of several it saves the snapshot, which knows the random
    generators of all, so that the run goes on as if undisturbed. At step 0 there is nothing to save.
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
            if run.shards is None:
                _save_alone(run, snapshots, whereabouts, what)
            else:
                run.trackers.note(f"WARNING: the run ends ({what}); {_left_of_shards(run)}")
        raise


def _left_of_shards(run: Run) -> str:
    """Say which checkpoint is left: no process of a sharded run can save by itself."""
    with suppress(Exception):
        run.store.wait()
    last = run.store.last()
    return f"`{last}` is its last checkpoint" if last is not None else "it has no checkpoint yet"


def _save_alone(run: Run, snapshots: Snapshots, whereabouts: Whereabouts, what: str) -> None:
    with suppress(Exception):
        run.store.wait()
    try:
        step, generators = snapshots.step, snapshots.generators
        content: Mapping[str, Any] | None = None
        if run.ranks.alone and not whereabouts.in_step and not non_finite(state := run.state.state_dict()):
            step, content, generators = run.progress.step, state, [state[PER_RANK]]
        if step == 0:
            return
        if run.folder_is_lost():
            content = content or snapshots.content()
            meta = checkpointing.describe(run, metrics={}, step=step)
            lost = checkpointing.write_beside(run, checkpointing.shared(content), generators, meta)
            raise checkpointing.folder_lost(run, lost, step=step)
        place = run.store.last()
        if place is None or place < run.store.folder(step):
            place = checkpointing.save_held(run, content or snapshots.content(), step=step, generators=generators)
        run.trackers.note(f"WARNING: the run ends ({what}); `{place}` is saved")
    except FolderLostError:
        raise
    except Exception as error:
        run.trackers.note(f"WARNING: the run ends ({what}), and could not be saved: {first_line(error)}")
