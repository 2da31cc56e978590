"""Requests from outside to stop or to save: signals and files, noticed between two steps.

SIGTERM, SIGUSR1       finish the step, save, leave with exit code 75     batch systems, before they take a machine
                       before the first step: leave at once with 75, there is nothing to save
Ctrl-C                 finish the step, save, leave with exit code 130
Ctrl-C a second time   stop at once (KeyboardInterrupt), nothing is saved
`<run>/STOP`           finish the step, save, leave with exit code 0
`<run>/SAVE`           save and go on
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal

from typing_extensions import Self

from ttstrain.errors import Preempted

Request = Literal["preempted", "interrupted", "stop"]

POLL_S = 1.0  # between looks for the files: a look at a network drive may take a millisecond

# SIGUSR1 is what `sbatch --signal=USR1@120` sends two minutes before the end. Windows has none.
_PREEMPTING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if name in signal.Signals.__members__)


@contextmanager
def preparing() -> Iterator[None]:
    """Raise Preempted when a batch system wants the machine before there is anything to save.

    Enter it in the main thread.
    """

    def leave(number: int, _frame: FrameType | None) -> None:
        raise Preempted(
            f"{signal.Signals(number).name} before the first step: there is nothing to save",
            hint="start the same command again; data that are prepared stay prepared",
        )

    former = {number: signal.signal(number, leave) for number in _PREEMPTING}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


class Signals:
    """Collects requests while it is entered; puts the former signal handlers back when it is left.

    Enter it in the main thread. Worker processes forked meanwhile ignore all of its signals: a Ctrl-C and most batch
    systems signal every process, and the last step still needs its data.
    """

    def __init__(self, run_dir: Path, *, speak: bool = True, clock: Callable[[], float] = time.monotonic) -> None:
        self._stop_file = run_dir / "STOP"
        self._save_file = run_dir / "SAVE"
        self._speak = speak  # one of several processes is enough
        self._clock = clock
        self._looked = -POLL_S
        self._save = False
        self._request: Request | None = None
        self._ctrl_c = False
        self._process = os.getpid()
        self._former: dict[int, Any] = {}

    def requested(self) -> Request | None:
        """Return why to stop after this step; the first request stays. Cheap enough to call every step."""
        self._look_for_files()
        return self._request

    def save_requested(self) -> bool:
        """Return whether a checkpoint was asked for since the last call."""
        self._look_for_files()
        asked, self._save = self._save, False
        return asked

    def __enter__(self) -> Self:
        self._process = os.getpid()
        for number in (*_PREEMPTING, signal.SIGINT):
            self._former[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: was not set from Python
        self._former.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a forked worker
        if number == signal.SIGINT:
            if self._ctrl_c:
                signal.signal(signal.SIGINT, signal.SIG_DFL)  # a third Ctrl-C does not even ask Python
                raise KeyboardInterrupt
            self._ctrl_c = True
            self._say("Ctrl-C: finishing this step and saving; press again to stop at once")
        else:
            self._say(f"{signal.Signals(number).name}: finishing this step and saving")
        if self._request is None:
            self._request = "interrupted" if number == signal.SIGINT else "preempted"

    def _say(self, message: str) -> None:
        if self._speak:
            os.write(2, f"\n{message}\n".encode())  # past every buffer and lock, which the interrupted code may hold

    def _look_for_files(self) -> None:
        now = self._clock()
        if now - self._looked < POLL_S:
            return
        self._looked = now
        if _take(self._stop_file) and self._request is None:
            self._request = "stop"
        self._save = _take(self._save_file) or self._save


def _take(file: Path) -> bool:
    """Remove a file and tell whether it was there, so that each request counts once."""
    try:
        file.unlink()
    except FileNotFoundError:
        return False
    return True
