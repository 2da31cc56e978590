"""Requests to stop, to save or to speak, by signals and files, handled between two steps.

SIGTERM, SIGUSR1       finish the step, save, leave with exit code 75     batch systems, before they take a machine
SIGHUP                 the same; not where it is ignored, as under nohup  a terminal that is closed
                       before the first step: leave at once with 75, there is nothing to save
Ctrl-C                 finish the step, save, leave with exit code 130
Ctrl-C a second time   stop at once (KeyboardInterrupt), nothing is saved
any, in the last step  save, evaluate, save again, leave with exit code 0; the next signal leaves the evaluation out
`<run>/STOP`           finish the step, save, leave with exit code 0
`<run>/SAVE`           save and go on
`<run>/SAMPLE`         generate samples and go on: of the text in the file, of the usual sentences if it is empty
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
HURRIED = ("preempted", "interrupted")  # requests by signal: batch systems kill a job after a short grace time

log = logging.getLogger(__name__)

LONGEST_TEXT = 2000  # bytes of the file `SAMPLE` that are read
POLL_S = 1.0  # between checks for the files: one on a network drive may take a millisecond

# SIGUSR1 is what `sbatch --signal=USR1@120` sends two minutes before the end. Windows has it no more than SIGHUP.
_PREEMPTING = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGHUP") if name in signal.Signals.__members__
)
_Handler = Callable[[int, FrameType | None], None]


class Hurried(Exception):  # noqa: N818  no failure: the evaluation or preview is left out
    """A signal asked to leave during an evaluation or a preview, which can be left out."""


@contextmanager
def starting(*, speak: bool = True) -> Iterator[None]:
    """End the program at once with exit code 75 when a batch system sends a signal, without clean-up.

    For the seconds of imports before a run begins, and for those after it. Enter it in the main thread.
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
    """Raise Preempted when a batch system sends a signal before the first step: there is nothing to save.

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
    """Set a handler and return the former ones. An ignored SIGHUP stays ignored, as nohup wants."""
    sighup = getattr(signal, "SIGHUP", None)
    wanted = [number for number in numbers if number != sighup or signal.getsignal(number) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in wanted}


def _put_back(former: Mapping[int, Any]) -> None:
    for number, handler in former.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: it was not set by Python


def _write(message: str) -> None:
    """Write to stderr without buffers and locks, which the interrupted code may hold; stderr may be closed."""
    with suppress(OSError):
        os.write(2, f"\n{message}\n".encode())


def _at_once(path: str, flags: int) -> int:
    """Open without waiting: a pipe in a file's place would hold the run up."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


class Signals:
    """Collects requests while it is entered; restores the former signal handlers when it is left.

    Enter it in the main thread just before training: old request files are removed. Worker processes that
    are forked meanwhile ignore its signals: Ctrl-C and most batch systems signal every process, and the last step
    still needs its data.
    """

    def __init__(self, run_dir: Path, *, speak: bool = True, clock: Callable[[], float] = time.monotonic) -> None:
        self._stop_file = run_dir / "STOP"
        self._save_file = run_dir / "SAVE"
        self._sample_file = run_dir / "SAMPLE"
        self._speak = speak  # False in all processes but one
        self._clock = clock
        self._looked = -POLL_S
        self._save = False
        self._sample: str | None = None  # the text to say; empty: the usual sentences
        self._request: Request | None = None
        self._ctrl_c = False
        self._doing = "finishing this step and saving"
        self._breakable = False
        self._blind = False  # the files could not be checked, and the warning was logged
        self._process = os.getpid()
        self._former: dict[int, Any] = {}

    def requested(self) -> Request | None:
        """Return why to stop after this step; later requests do not replace the first. Cheap: call it every step."""
        self._look_for_files()
        return self._request

    def save_requested(self) -> bool:
        """Return whether a checkpoint was requested since the last call."""
        self._look_for_files()
        asked, self._save = self._save, False
        return asked

    @property
    def asks_for_sample(self) -> bool:
        """Whether `sample_requested` has a text. Only in the process that speaks: the others leave the file to it."""
        self._look_for_files()
        return self._sample is not None

    def sample_requested(self) -> str | None:
        """Return the text to say if samples were requested since the last call; empty means the usual sentences."""
        self._look_for_files()
        asked, self._sample = self._sample, None
        return asked

    @property
    def hurried(self) -> bool:
        """Whether a signal asks to leave: save first, and leave out evaluation and previews."""
        return self._request in HURRIED

    def answered(self) -> None:
        """Mark the request as handled: the state is saved, and the next signal leaves the last evaluation out."""
        self._request, self._ctrl_c = None, False
        self._doing = "leaving the last evaluation and samples out"

    @contextmanager
    def breakable(self) -> Iterator[None]:
        """Raise Hurried inside the block as soon as a signal asks to leave, at once if one already has."""
        if self.hurried:
            raise Hurried
        self._breakable = True
        try:
            yield
        finally:
            self._breakable = False

    def __enter__(self) -> Self:
        self._process = os.getpid()
        for file in (self._stop_file, self._save_file, *((self._sample_file,) if self._speak else ())):
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
                signal.signal(signal.SIGINT, signal.SIG_DFL)  # a third Ctrl-C ends the process without Python
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
        if self._remove(self._stop_file) and self._request is None:
            self._request = "stop"
        self._save = self._remove(self._save_file) or self._save
        if self._speak and (text := self._text()) is not None and self._remove(self._sample_file):
            self._sample = text

    def _text(self) -> str | None:
        """Read the file `SAMPLE`; None where there is none."""
        try:
            with open(self._sample_file, "rb", opener=_at_once) as file:
                return file.read(LONGEST_TEXT).decode("utf-8", "ignore").strip()
        except FileNotFoundError:
            return None
        except OSError:
            return ""  # it may be removed though it cannot be read

    def _remove(self, file: Path) -> bool:
        """Remove a request file and return whether it existed, so that each request counts once.

        A failing drive or a read-only folder must not end the run: one warning is logged.
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
