"""Requests from outside to stop or to save: signals and files, noticed between two steps.

SIGTERM, SIGUSR1       finish the step, save, leave with exit code 75     batch systems, before they take a machine
SIGHUP                 the same; not where it is ignored, as under nohup  a terminal that is closed
                       before the first step: leave at once with 75, there is nothing to save
Ctrl-C                 finish the step, save, leave with exit code 130
Ctrl-C a second time   stop at once (KeyboardInterrupt), nothing is saved
any, in the last step  save, evaluate, save again, leave with exit code 0; the next signal leaves the evaluation out
`<run>/STOP`           finish the step, save, leave with exit code 0
`<run>/SAVE`           save and go on
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal

from typing_extensions import Self

from ttstrain.errors import Preempted
from ttstrain.terminal import on_one_line

Request = Literal["preempted", "interrupted", "stop"]
HURRIED = ("preempted", "interrupted")  # requests of a signal: batch systems kill what takes longer than they grant

log = logging.getLogger(__name__)

POLL_S = 1.0  # between looks for the files: a look at a network drive may take a millisecond

# SIGUSR1 is what `sbatch --signal=USR1@120` sends two minutes before the end. Windows has it no more than SIGHUP.
_PREEMPTING = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGHUP") if name in signal.Signals.__members__
)
_Handler = Callable[[int, FrameType | None], None]


class Hurried(Exception):  # noqa: N818  no failure: what was being done can be left out
    """Someone asked to leave while something went on that can be left out."""


@contextmanager
def starting(*, speak: bool = True) -> Iterator[None]:
    """End the program with exit code 75 when a batch system wants the machine back, without a clean-up.

    For the seconds in which modules are imported and nothing has begun, and for those after a run. Enter it in the
    main thread.
    """

    def leave(number: int, _frame: FrameType | None) -> None:
        if speak:
            _write(
                f"error: {signal.Signals(number).name}: there is nothing to save now\n"
                "hint: start the same command again, or `ttstrain resume` a run that has a checkpoint"
            )
        os._exit(Preempted.exit_code)

    former = _handle(_PREEMPTING, leave)
    try:
        yield
    finally:
        _put_back(former)


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

    former = _handle(_PREEMPTING, leave)
    try:
        yield
    finally:
        _put_back(former)


def _handle(numbers: Iterable[int], handler: _Handler) -> dict[int, Any]:
    """Set a handler and return the former ones. A SIGHUP that is ignored stays ignored: nohup asked for that."""
    sighup = getattr(signal, "SIGHUP", None)
    wanted = [number for number in numbers if number != sighup or signal.getsignal(number) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in wanted}


def _put_back(former: Mapping[int, Any]) -> None:
    for number, handler in former.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: was not set from Python


def _write(message: str) -> None:
    """Write to stderr past every buffer and lock, which the interrupted code may hold; stderr may be gone."""
    with suppress(OSError):
        os.write(2, f"\n{message}\n".encode())


class Signals:
    """Collects requests while it is entered; puts the former signal handlers back when it is left.

    Enter it in the main thread, when the run is about to train: a `STOP` or `SAVE` from before is removed. Worker
    processes forked meanwhile ignore all of its signals: a Ctrl-C and most batch systems signal every process, and the
    last step still needs its data.
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
        self._doing = "finishing this step and saving"
        self._breakable = False
        self._blind = False  # the files could not be checked, and the warning was logged
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

    @property
    def hurried(self) -> bool:
        """Whether a signal asks to leave; what can be left out until the state is saved should be."""
        return self._request in HURRIED

    def answered(self) -> None:
        """Let the next signal be a request of its own: the state is saved, and what still goes on can be left out."""
        self._request, self._ctrl_c = None, False
        self._doing = "leaving the last evaluation and samples out"

    @contextmanager
    def breakable(self) -> Iterator[None]:
        """Raise Hurried inside as soon as a signal asks to leave, or at once where one has."""
        if self.hurried:
            raise Hurried
        self._breakable = True
        try:
            yield
        finally:
            self._breakable = False

    def __enter__(self) -> Self:
        self._process = os.getpid()
        for file in (self._stop_file, self._save_file):
            with suppress(OSError):
                file.unlink()
        self._former = _handle((*_PREEMPTING, signal.SIGINT), self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _put_back(self._former)
        self._former.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a forked worker
        if number == signal.SIGINT:
            if self._ctrl_c:
                signal.signal(signal.SIGINT, signal.SIG_DFL)  # a third Ctrl-C does not even ask Python
                raise KeyboardInterrupt
            self._ctrl_c = True
            self._say(f"Ctrl-C: {self._doing}; press again to stop at once")
        else:
            self._say(f"{signal.Signals(number).name}: {self._doing}")
        if self._request is None:
            self._request = "interrupted" if number == signal.SIGINT else "preempted"
        if self._breakable:
            self._breakable = False
            raise Hurried

    def _say(self, message: str) -> None:
        if self._speak:
            _write(on_one_line(message))

    def _look_for_files(self) -> None:
        now = self._clock()
        if now - self._looked < POLL_S:
            return
        self._looked = now
        if self._take(self._stop_file) and self._request is None:
            self._request = "stop"
        self._save = self._take(self._save_file) or self._save

    def _take(self, file: Path) -> bool:
        """Remove a file and tell whether it was there, so that each request counts once.

        A drive that fails, or a folder that cannot be written, must not end the run: it is told once.
        """
        try:
            file.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            if not self._blind:
                self._blind = True
                if self._speak:
                    log.warning("cannot check for `%s`: %s; training goes on", file, error.strerror or error)
            return False
        return True
