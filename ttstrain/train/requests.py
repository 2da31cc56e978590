"""Requests to stop or to save, handled between two steps, and the end of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

import torch

from ttstrain.checkpoint.pointers import is_checkpoint
from ttstrain.errors import Interrupted, Preempted
from ttstrain.shell import quoted
from ttstrain.train import checkpointing, recovery
from ttstrain.train.decide import Ending, Leave, Requests
from ttstrain.train.evaluation_loop import Pieces
from ttstrain.train.run import Run
from ttstrain.train.signals import Request, Signals
from ttstrain.train.snapshot import Snapshots


def look_for_requests(run: Run, signals: Signals, *, before: Requests | None = None) -> Requests:
    """Return the requests so far, those of `before` included. A request to one rank counts for all."""
    before = before or Requests()
    leave, save = signals.requested(), signals.save_requested() or before.save or run.folder_is_lost()
    sample = signals.asks_for_sample
    if run.ranks.alone:
        return Requests(leave, save=save, sample=sample)
    own = {**{wish: wish == leave for wish in get_args(Request)}, "save": save, "sample": sample}
    counts = dict(zip(own, run.ranks.sum(torch.tensor([*own.values()], dtype=torch.int64)).tolist(), strict=True))
    leave = next((wish for wish in get_args(Request) if counts[wish]), None)
    return Requests(leave, save=counts["save"] > 0, sample=counts["sample"] > 0)


def answer(run: Run, requests: Requests, snapshots: Snapshots, held_out: Sequence[Pieces]) -> Ending | None:
    """Handle requests after a step that was not taken; return how the run ended, if it did."""
    if not (requests.leave or requests.save):
        return None
    if unsound := recovery.look(run, {}):
        recovery.take_back(run, unsound, snapshots, held_out)
    if requests.leave:
        return save_and_leave(run, requests.leave)
    checkpointing.save(run)
    return None


def save_and_leave(run: Run, request: Request) -> Ending:
    """Save the state unless its checkpoint is on disk, then leave. Raises Preempted or Interrupted for a signal."""
    checkpointing.look_for_failure(run, wait=True)
    step = run.progress.step
    saved = run.ranks.broadcast(is_checkpoint(run.store.folder(step)))
    if not saved or run.best.lost_by_saving(step):
        checkpointing.save(run)
    return leave(run, "stopped" if request == "stop" else request)


def leave(run: Run, how: Leave, *, metrics: Mapping[str, float] | None = None) -> Ending:
    """End the run once its checkpoints are on disk: return how it ended, or raise Preempted or Interrupted.

    `metrics` are those of the last save. Raises CheckpointError where the state cannot be saved.
    """
    checkpointing.settle(run, metrics=metrics)
    tell_saved(run)
    message = f"{how} after step {run.progress.step}; saved `{run.store.folder(run.progress.step)}`"
    hint = f"continue with `ttstrain resume {quoted(run.folder)}`"
    if how == "preempted":
        raise Preempted(message, hint=hint)
    if how == "interrupted":
        raise Interrupted(message, hint=hint)
    return how


def tell_saved(run: Run) -> None:
    """Report checkpoints that have been written, and a save that has failed, since the last call."""
    checkpointing.look_for_failure(run, wait=False)
    for line in run.store.news():
        run.trackers.note(line)
    for one in run.store.written():
        run.trackers.checkpoint(one.step, one.folder, best=one.best)
