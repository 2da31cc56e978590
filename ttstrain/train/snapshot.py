"""The last good state, held for a rollback."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from ttstrain.checkpoint import store
from ttstrain.checkpoint.meta import Meta
from ttstrain.state import TrainState

STAYS = frozenset({"loader", "rng", "precision", "guard", "early_stop", "best"})
"""What a rollback leaves where it is. Data and noise move on, or the bad batch would be drawn again; the loss scale
stays, or an overflow would come back for ever."""


class Snapshots(Protocol):
    """Keeps one good state."""

    step: int

    def take(self, state: TrainState, step: int) -> None: ...

    def restore(self, state: TrainState) -> None: ...

    def content(self) -> Mapping[str, Any]: ...

    def drop(self) -> None: ...


class MemorySnapshots:
    """Holds the state in host memory: fast, and as large as weights, optimizer state and EMA weights together."""

    def __init__(self) -> None:
        self.step = -1
        self._content: Mapping[str, Any] = {}

    def take(self, state: TrainState, step: int) -> None:
        """Replace the held state by a copy of this one."""
        self._content = state.snapshot()
        self.step = step

    def restore(self, state: TrainState) -> None:
        """Put the held state back, but for what a rollback leaves where it is."""
        state.load_state_dict(self._content, keep=STAYS & set(state.parts))

    def content(self) -> Mapping[str, Any]:
        """Return the held state, whole."""
        return self._content

    def drop(self) -> None:
        """Release the held state."""
        self._content = {}


class DiskSnapshots:
    """Holds the state in one folder of the run: for models whose state does not fit in memory twice."""

    def __init__(self, folder: Path, meta: Meta) -> None:
        self.step = -1
        self._folder = folder
        self._meta = meta

    def take(self, state: TrainState, step: int) -> None:
        """Replace the held state; the old one goes only when the new one is complete."""
        fresh = self._folder / f"step-{step:08d}"
        store.save(fresh, state.state_dict(), self._meta)
        self.step = step
        for old in self._folder.iterdir():  # of a killed process, too
            if old != fresh:
                shutil.rmtree(old, ignore_errors=True)  # one that stays, as a network drive may have it, goes next time

    def restore(self, state: TrainState) -> None:
        """Put the held state back, but for what a rollback leaves where it is."""
        state.load_state_dict(self.content(), keep=STAYS & set(state.parts))

    def content(self) -> Mapping[str, Any]:
        """Read the held state from disk."""
        return store.load(self._folder / f"step-{self.step:08d}").state

    def drop(self) -> None:
        """Release the held state."""
        shutil.rmtree(self._folder, ignore_errors=True)


def make(kind: Literal["memory", "disk"], *, folder: Path, meta: Meta) -> Snapshots:
    """Choose where snapshots live."""
    return MemorySnapshots() if kind == "memory" else DiskSnapshots(folder, meta)
