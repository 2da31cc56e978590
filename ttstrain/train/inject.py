"""Faults that a run brings upon itself, to show what it does about them (`debug.inject`).

A fault enters where its real counterpart would: in the losses of a step (`in_losses`), before a batch is loaded
(`before_batch`), or while a checkpoint is written (`at_save`). It enters once. That is written to `injected.jsonl` in
the run's folder before the fault enters, so that neither a rollback nor a resume after a kill brings it back; no
checkpoint could hold that. A run without faults has no injector.
"""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ttstrain import documents
from ttstrain.checkpoint.store import WriteHook, WriteMoment
from ttstrain.contract.task import Loss
from ttstrain.errors import CheckpointError
from ttstrain.recipe.faults import MEANINGS, Fault, FaultKind
from ttstrain.train.distributed import Ranks

RECORD = "injected.jsonl"
SPIKE = 1e4  # factor of the loss
SLOW_S = 3.0
OF_LOSSES: tuple[FaultKind, ...] = ("nan_loss", "inf_grad", "spike", "oom", "sigterm", "kill", "bad_clip")
OF_RANKS: tuple[FaultKind, ...] = ("lost_rank",)
OF_DATA: tuple[FaultKind, ...] = ("worker_death",)
OF_DISK: tuple[FaultKind, ...] = ("disk_full", "slow_disk", "bit_flip")


class LoadsInProcesses(Protocol):
    """What `worker_death` needs of the supply of batches."""

    def worker_pids(self) -> list[int]: ...


class Injector:
    """Brings faults in at their steps, each of them once: the main process all but `lost_rank`, the last one that."""

    def __init__(
        self,
        faults: Sequence[Fault],
        *,
        folder: Path,
        say: Callable[[str], None],
        kinds: Collection[FaultKind] = (*OF_LOSSES, *OF_DATA, *OF_DISK),
    ) -> None:
        """`folder` is the run's; `say` shows a line to the user; only faults of these `kinds` enter in this process.

        Raises CheckpointError if the record is unreadable.
        """
        self.faults = tuple(faults)
        self._kinds = frozenset(kinds)
        self._record = folder / RECORD
        self._say = say
        self._bad_clips: set[str] = set()
        self._entered = self._read()

    @property
    def num_entered(self) -> int:
        """The number of faults that have entered, earlier sessions of the run included."""
        return len(self._entered)

    @property
    def named(self) -> list[str]:
        """The faults that this session asks for, and those that have entered without being asked for any longer."""
        asked = [str(fault) for fault in self.faults]
        return [*asked, *sorted(self._entered - set(asked))]

    def missing(self) -> list[str]:
        """Name the faults that have not entered."""
        return [str(fault) for fault in self.faults if str(fault) not in self._entered]

    # ------------------------------------------------------------ where faults enter

    def in_losses(self, losses: Iterator[Loss], *, step: int, clips: Sequence[str], last: str) -> Iterator[Loss]:
        """Yield a micro-batch's losses with the faults that are due in `step`.

        They enter with the losses that update the optimizer `last`, the one that steps last: earlier ones may have
        stepped by then, which is the harder case. `clips` are those of the micro-batch.
        """
        due = self._due((*OF_LOSSES, *OF_RANKS), step)
        for loss in losses:
            if loss.updates != last:
                yield loss
                continue
            spoiled = loss
            for fault in due:
                spoiled = self._spoiled(fault, spoiled, clips)
            due = []
            yield self._with_bad_clips(spoiled, clips)

    def in_losses_again(self, losses: Iterator[Loss], *, clips: Sequence[str], last: str) -> Iterator[Loss]:
        """Yield the losses of a batch that is only looked at: the clips that are bad stay so, and nothing enters."""
        for loss in losses:
            yield self._with_bad_clips(loss, clips) if loss.updates == last else loss

    def before_batch(self, supply: LoadsInProcesses, *, step: int) -> None:
        """Kill a process that loads data, if that is due in `step`."""
        for fault in self._due(OF_DATA, step):
            pids = supply.worker_pids()
            if pids:
                self._enter(fault)
                os.kill(pids[0], signal.SIGKILL)

    def at_save(self, step: int) -> WriteHook | None:
        """Return what happens while the checkpoint of `step` is written; None for nothing."""
        due = [fault for fault in self.faults if fault.kind in OF_DISK and self._waits(fault) and fault.step <= step]
        for fault in due:
            self._enter(fault)
        kinds = [fault.kind for fault in due]
        return (lambda moment, folder: _on_disk(kinds, moment, folder)) if kinds else None

    # ------------------------------------------------------------ once

    def _due(self, kinds: Sequence[FaultKind], step: int) -> list[Fault]:
        return [fault for fault in self.faults if fault.step == step and fault.kind in kinds and self._waits(fault)]

    def _waits(self, fault: Fault) -> bool:
        return fault.kind in self._kinds and str(fault) not in self._entered

    def _enter(self, fault: Fault, **more: Any) -> None:
        """Record that a fault enters now, on the disk first."""
        with self._record.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"fault": str(fault), **more}, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._entered.add(str(fault))
        self._say(f"WARNING: injected {fault}: {MEANINGS[fault.kind]}")

    def _read(self) -> set[str]:
        if not self._record.exists():
            return set()
        entered: set[str] = set()
        asked = {str(fault) for fault in self.faults}
        for line in documents.read_bytes(self._record, error=CheckpointError).decode("utf-8", "replace").splitlines():
            try:
                row = documents.parse(line.encode())
                entered.add(str(row["fault"]))
                if row["fault"] in asked:
                    self._bad_clips |= set(row.get("clips", ()))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise CheckpointError(
                    f"`{self._record}` is damaged: {error}",
                    hint="it lists the injected faults that have entered; resume without them: `~debug.inject`",
                ) from error
        return entered

    def _with_bad_clips(self, loss: Loss, clips: Sequence[str]) -> Loss:
        return loss if self._bad_clips.isdisjoint(clips) else replace(loss, value=loss.value * math.nan)

    def _spoiled(self, fault: Fault, loss: Loss, clips: Sequence[str]) -> Loss:
        if fault.kind == "bad_clip":
            self._bad_clips.add(clips[0])
            self._enter(fault, clips=[clips[0]])
            return loss
        self._enter(fault)
        if fault.kind == "nan_loss":
            return replace(loss, value=loss.value * math.nan)
        if fault.kind == "inf_grad":
            return replace(loss, value=_InfiniteGradient.apply(loss.value))  # type: ignore[no-untyped-call]
        if fault.kind == "spike":
            return replace(loss, value=loss.value * SPIKE)
        if fault.kind == "oom":
            raise torch.OutOfMemoryError("CUDA out of memory: injected")
        if fault.kind == "sigterm":
            signal.raise_signal(signal.SIGTERM)
        elif fault.kind in ("kill", "lost_rank"):
            os.kill(os.getpid(), signal.SIGKILL)
        return loss


def make(faults: Sequence[Fault], *, folder: Path, ranks: Ranks, say: Callable[[str], None]) -> Injector | None:
    """Make this process's injector.

    None for a process that brings nothing in: in a run without faults, now and in earlier sessions, that is every one.
    """
    if ranks.main:
        return Injector(faults, folder=folder, say=say) if faults or (folder / RECORD).exists() else None
    last = ranks.rank == ranks.world_size - 1
    if last and any(fault.kind in OF_RANKS for fault in faults):
        return Injector(faults, folder=folder, say=say, kinds=OF_RANKS)
    return None


class _InfiniteGradient(torch.autograd.Function):
    """Pass a value on, and an infinite gradient back."""

    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(context: Any, *gradients: Any) -> Any:
        return gradients[0] * math.inf


def _on_disk(kinds: Sequence[FaultKind], moment: WriteMoment, folder: Path) -> None:
    if moment == "half" and "slow_disk" in kinds:
        time.sleep(SLOW_S)
    if moment == "half" and "disk_full" in kinds:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if moment == "whole" and "bit_flip" in kinds:
        flip_a_bit(folder / "weights.safetensors")


def flip_a_bit(path: Path) -> None:
    """Change the lowest bit of the byte in the middle of a file."""
    with path.open("r+b") as file:
        middle = path.stat().st_size // 2
        file.seek(middle)
        (byte,) = file.read(1)
        file.seek(middle)
        file.write(bytes([byte ^ 1]))
