"""What the processes of one launch leave to those that torch's elastic agent starts in their place.

It stands in the agent's store, which outlives the processes and ends with the launcher, so that no other launch can
take it for its own. Attempts are counted from 0, as `TORCHELASTIC_RESTART_COUNT` counts them:

    begun/<attempt>    the run's folder, and when its newest checkpoint was written before this attempt
    ended/<attempt>    the exit code of an attempt that ended by itself; missing where a process was killed
    lost/<attempt>     which process was killed, where our own launcher saw it
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from torch.distributed.distributed_c10d import Store

from ttstrain import documents
from ttstrain.checkpoint import pointers
from ttstrain.train.distributed import agent_store
from ttstrain.train.launched import attempt

_FAILED = 1  # an internal error, or a device that fails: the next attempt may not meet it again


@dataclass(frozen=True, slots=True)
class Begun:
    """A run's folder as an attempt found it."""

    folder: Path
    newest: int  # nanoseconds, when its newest checkpoint was written; 0 where there was none

    def has_moved_on(self) -> bool:
        """Tell whether a checkpoint was written since."""
        return pointers.newest_written_at(self.folder / pointers.CHECKPOINTS) > self.newest


class Attempts:
    """The attempts of one launch up to `number`, in its agent's store."""

    def __init__(self, store: Store, number: int) -> None:
        self.number = number
        self._store = store

    def begin(self, folder: Path) -> None:
        """Leave the run's folder, whose lock this attempt has just taken."""
        newest = pointers.newest_written_at(folder / pointers.CHECKPOINTS)
        self._leave("begun", {"folder": str(folder), "newest": newest})

    def end(self, exit_code: int) -> None:
        """Leave the exit code with which this attempt ends by itself."""
        self._leave("ended", exit_code)

    def lose(self, process: str) -> None:
        """Leave which of this attempt's processes was killed."""
        self._leave("lost", process)

    def before(self) -> Attempts | None:
        """Return the attempts without the last one; None where that is the first."""
        return Attempts(self._store, self.number - 1) if self.number > 0 else None

    def lost(self) -> str:
        """Say which process of the last attempt was lost, as far as that is known."""
        return str(self._left("lost", self.number) or "a process of this run was lost")

    def first_begun(self) -> Begun | None:
        """Return the folder as the first attempt that had one found it; None where none had."""
        return next((begun for number in range(self.number + 1) if (begun := self._begun(number)) is not None), None)

    def ended(self) -> int | None:
        """Return the exit code of the last attempt; None where one of its processes was killed."""
        code = self._left("ended", self.number)
        return code if isinstance(code, int) else None

    def repeats(self) -> str | None:
        """Say why another attempt would only repeat the last one; None where it may come further."""
        code = self.ended()
        if code not in (None, _FAILED):
            return f"it ended with exit code {code}, which another start would repeat"
        begun = self._begun(self.number)
        if (begun is not None and begun.has_moved_on()) or (self.number == 0 and code is None):
            return None
        return "it wrote no new checkpoint, and another start would likely end as it did"

    def _begun(self, number: int) -> Begun | None:
        left = self._left("begun", number)
        return Begun(Path(left["folder"]), left["newest"]) if isinstance(left, dict) else None

    def _leave(self, what: str, value: object) -> None:
        self._store.set(_key(what, self.number), json.dumps(value))

    def _left(self, what: str, number: int) -> object:
        key = _key(what, number)
        return documents.parse(self._store.get(key).decode("utf-8")) if self._store.check([key]) else None


def of_this_launch() -> Attempts | None:
    """Return the attempts of this process's launch up to its own; None without the store of an elastic agent."""
    store = agent_store()
    return None if store is None else Attempts(store, attempt())


def _key(what: str, number: int) -> str:
    return f"ttstrain/{what}/{number}"
