"""Writes `report.html` while a run trains: after evaluations and samples, and at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from ttstrain.checkpoint.run_folder import REPORT
from ttstrain.errors import first_line
from ttstrain.report.record import Reader
from ttstrain.report.write import write_page
from ttstrain.tracking.tracker import RunInfo, Tracker

SHARE = 0.01  # of a run's time, at most, is spent on its page
WORTH_A_PAGE = ("eval/", "sample/", "judge/")


class ReportTracker(Tracker):
    """Writes the page of a run into its folder. What goes wrong is noted once, and the run goes on."""

    def __init__(self, *, note: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._note = note
        self._clock = clock
        self._reader: Reader | None = None
        self._next = 0.0  # time from which on a page may be written
        self._told = False

    def start(self, info: RunInfo) -> None:
        """Take in the folder; nothing is written before there is something to see."""
        try:
            self._reader = Reader(info.run_dir)
        except Exception as error:
            self._tell(error)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if (
            self._reader is not None
            and self._clock() >= self._next
            and any(key.startswith(WORTH_A_PAGE) for key in values)
        ):
            self._write("running")

    def finish(self, status: str) -> None:
        if self._reader is not None:
            self._write(status)
            self._reader = None

    def _write(self, status: str) -> None:
        assert self._reader is not None
        started = self._clock()
        try:
            if self._reader.run.is_dir():  # a folder that was removed is not made again
                write_page([self._reader.read(status=status)], self._reader.run / REPORT)
        except Exception as error:
            self._tell(error)
        ended = self._clock()
        self._next = ended + (ended - started) / SHARE

    def _tell(self, error: Exception) -> None:
        if not self._told:
            self._told = True
            self._note(f"{REPORT} is not written: {first_line(error)}")
