"""The last good state, held for a rollback."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from ttstrain.checkpoint import store
from ttstrain.checkpoint.meta import Meta
from ttstrain.state import TrainState, Tree, detach_copy
from ttstrain.tensors.host_copy import HostCopy
from ttstrain.tensors.sharded import rows_of
from ttstrain.train.distributed import Ranks

STAYS = frozenset({"loader", "rng", "precision", "guard", "early_stop", "best"})
"""What a rollback leaves where it is. Data and noise move on, or the bad batch would be drawn again; the loss scale
stays, or an overflow would come back for ever."""
PER_RANK = "rng"  # the one part of a state that differs between processes


class Snapshots(Protocol):
    """Keeps one good state."""

    step: int
    generators: Sequence[Tree]  # every rank's random generators, on every rank; in a sharded run empty

    def take(self, state: TrainState, step: int) -> None: ...

    def restore(self, state: TrainState) -> None: ...

    def content(self) -> Mapping[str, Any]: ...

    def in_memory(self) -> Mapping[str, Any]: ...

    def drop(self) -> None: ...


class MemorySnapshots:
    """Holds the state in host memory: fast, and as large as weights, optimizer state and EMA weights together.

    A new snapshot overwrites the last one: both are never in memory together.
    """

    def __init__(self) -> None:
        self.step = -1
        self.generators: Sequence[Tree] = ()
        self._copy = HostCopy()
        self._content: Mapping[str, Any] = {}

    def take(self, state: TrainState, step: int) -> None:
        """Replace the held state by a copy of this one."""
        self._content = self._copy.take(rows_of(state.state_dict()))
        self.step = step

    def restore(self, state: TrainState) -> None:
        """Put the held state back, but for what a rollback leaves where it is."""
        state.load_state_dict(self._content, keep=STAYS & set(state.parts))

    def content(self) -> Mapping[str, Any]:
        """Return the held state, whole; the next `take` overwrites its tensors."""
        return self._content

    def in_memory(self) -> Mapping[str, Any]:
        """Return the held state, which lies in memory."""
        return self._content

    def drop(self) -> None:
        """Release the held state."""
        self._content = {}
        self._copy.drop()


class DiskSnapshots:
    """Holds the state in one folder of the run: for models whose state does not fit in memory twice.

    Where the processes hold equal states, one of each machine writes, and the others of that machine read what it
    wrote; what differs between processes is small and stays in memory. Where they hold shards, each writes its own.
    """

    def __init__(self, folder: Path, meta: Meta, *, writes: bool = True) -> None:
        self.step = -1
        self.generators: Sequence[Tree] = ()
        self._folder = folder
        self._meta = meta
        self._writes = writes
        self._own: dict[str, Tree] = {}

    def take(self, state: TrainState, step: int) -> None:
        """Replace the held state; the old one goes only when the new one is complete."""
        content = rows_of(state.state_dict())
        self._own = {PER_RANK: detach_copy(content.pop(PER_RANK))} if PER_RANK in content else {}
        if self._writes:
            fresh = self._place(step)
            store.save(fresh, content, self._meta, durable=False)
            for old in self._folder.iterdir():  # of a killed process, too
                if old != fresh:
                    shutil.rmtree(old, ignore_errors=True)  # one that stays, as a network drive may have it, goes later
        self.step = step

    def restore(self, state: TrainState) -> None:
        """Put the held state back, but for what a rollback leaves where it is."""
        state.load_state_dict(self.content(), keep=STAYS & set(state.parts))

    def content(self) -> Mapping[str, Any]:
        """Read the held state from disk."""
        return store.load(self._place(self.step), verify=False).state | self._own

    def in_memory(self) -> Mapping[str, Any]:
        """Return nothing: the held state lies on the disk."""
        return {}

    def drop(self) -> None:
        """Release the held state."""
        if self._writes:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _place(self, step: int) -> Path:
        return self._folder / f"step-{step:08d}"


def make(
    kind: Literal["memory", "disk"], *, run_folder: Path, meta: Meta, ranks: Ranks, sharded: bool = False
) -> Snapshots:
    """Choose where snapshots live; those on disk in a folder of the run for each machine, for each process of a
    `sharded` run.
    """
    if kind == "memory":
        return MemorySnapshots()
    if sharded:
        return DiskSnapshots(run_folder / f"snapshot-rank-{ranks.rank}", meta)
    folder = run_folder / f"snapshot-rank-{ranks.rank - ranks.local_rank}"
    return DiskSnapshots(folder, meta, writes=ranks.local_rank == 0)
