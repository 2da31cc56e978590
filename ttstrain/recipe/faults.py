"""Faults that `debug.inject` names, written `fault@step`: what each does, and how the list is read. No torch here."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

FaultKind = Literal[
    "nan_loss",
    "inf_grad",
    "spike",
    "oom",
    "sigterm",
    "kill",
    "worker_death",
    "bad_clip",
    "disk_full",
    "slow_disk",
    "bit_flip",
    "lost_rank",
]
KINDS: tuple[FaultKind, ...] = get_args(FaultKind)

MEANINGS: Mapping[FaultKind, str] = {
    "nan_loss": "the loss of the step is NaN",
    "inf_grad": "the loss is finite and its gradient is not",
    "spike": "the loss and its gradient are 10,000 times as large",
    "oom": "memory runs out while a loss is computed",
    "sigterm": "SIGTERM arrives in the middle of the step",
    "kill": "the process is killed in the middle of the step, as by `kill -9`",
    "worker_death": "a process that loads data is killed",
    "bad_clip": "from this step on, the loss of every batch with one clip of this step is NaN",
    "disk_full": "the disk is full while the next checkpoint is written",
    "slow_disk": "writing the next checkpoint takes three seconds longer",
    "bit_flip": "one bit of the weights in the next checkpoint changes on the disk",
    "lost_rank": "the last of several processes is killed in the middle of the step",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault and the step in which it enters, counted from 1; a fault of the disk waits for a checkpoint."""

    kind: FaultKind
    step: int

    def __str__(self) -> str:
        return f"{self.kind}@{self.step}"


def read_fault(written: str) -> Fault:
    """Read `fault@step`. Raises ValueError that names the nearest known fault."""
    kind, _, step = written.partition("@")
    known = next((name for name in KINDS if name == kind), None)
    if known is None:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        meant = f"; did you mean `{near[0]}`?" if near else ""
        raise ValueError(f"there is no fault `{kind}`{meant} The faults: {', '.join(KINDS)}")
    if re.fullmatch(r"0*[1-9][0-9]{0,8}", step) is None:
        raise ValueError(f"`{written}` names no step: write `{kind}@17` for step 17; the first step is 1")
    return Fault(known, int(step))


def read_faults(written: Sequence[str]) -> list[Fault]:
    """Read the list of `debug.inject`, in its order. Raises ValueError for an unknown fault and one named twice."""
    faults = [read_fault(one) for one in written]
    for index, fault in enumerate(faults):
        if fault in faults[:index]:
            raise ValueError(f"`{fault}` is named twice: each fault enters once")
    return faults


def injected_note(written: Sequence[str]) -> str:
    """Say of a run or of its weights that faults were injected, and which."""
    return f"a run to test ttstrain itself with {', '.join(written)}; its weights are not for use"
