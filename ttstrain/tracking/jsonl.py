"""`metrics.jsonl`: every number of a run, one JSON object per step; and `warnings.jsonl`, the run's warnings.

- `step` comes first, then `place/kind/name` keys in the order in which they were logged.
- A line is written by one system call, so a killed process leaves whole lines; a torn last line, as a lost machine may
  leave it, is dropped when the run is resumed.
- JSON has no NaN and no infinity: both are `null`, which `read` gives back as NaN.
- A resume at step k first drops what was recorded after k, so that the file equals that of an uninterrupted run.
- Where a run resumes from an earlier checkpoint, the lines after that step are copied to `metrics.<n>.jsonl`.
- After a rollback the steps that are taken again are appended: the file keeps both. `guard/rollbacks` is
  higher from there on, and of two lines with one step the later one belongs to the weights.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from ttstrain import documents
from ttstrain.data import atomic
from ttstrain.errors import DataError, RecipeError
from ttstrain.tracking.tracker import RunInfo, Tracker

FILE_NAME = "metrics.jsonl"
WARNINGS = "warnings.jsonl"  # {"time", "step", "warning"}; lines are never removed

MOST_WAITING = 64_000_000  # bytes of lines that are kept in memory while the disk is full

_LINE = re.compile(rb'^\{"step": (\d{1,18})[,}].*\n', re.MULTILINE)  # complete lines only


class JsonlTracker(Tracker):
    """Writes `metrics.jsonl` and `warnings.jsonl` into the run's folder.

    A full disk does not stop the run: `warn` is called once, and lines wait in memory until the disk has room.
    """

    def __init__(self, *, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._warned = False
        self._file: IO[bytes] | None = None
        self._line_start = 0  # byte offset of the last line
        self._end = 0  # byte offset of the next line
        self._on_disk = 0  # bytes of the file that are written
        self._waiting = b""  # what comes behind them and is not written yet, because the disk is full
        self._step = -1
        self._values: dict[str, float | None] = {}  # values of the last line
        self._warnings: Path | None = None  # path of warnings.jsonl; None before the start
        self._waiting_warnings = b""
        self._last_step = 0

    def start(self, info: RunInfo) -> None:
        path = info.run_dir / FILE_NAME
        try:
            if info.resumed:
                trim(path, info.start_step)
            else:
                _set_aside(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            self._file = path.open("r+b", buffering=0)
        except OSError as error:
            raise RecipeError(
                f"`{path}` cannot be written: {error.strerror or error}",
                hint="check the file's permissions and the free space on its disk",
            ) from error
        self._on_disk = self._end = self._file.seek(0, os.SEEK_END)
        self._warnings, self._last_step = info.run_dir / WARNINGS, info.start_step
        if info.resumed:
            self._go_on_with_line(path)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._last_step = step
        numbers = {key: _to_json(value) for key, value in values.items()}
        if step == self._step and self._values.keys().isdisjoint(numbers):  # further keys of one step, not a repetition
            self._values |= numbers
            self._end = self._line_start
        else:
            self._step, self._values = step, numbers
        self._write_line(json.dumps({"step": step} | self._values, ensure_ascii=False).encode() + b"\n")

    def warn(self, message: str, *, shown: bool = False) -> None:
        if self._warnings is None:
            return
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        line = json.dumps({"time": now, "step": self._last_step, "warning": message}, ensure_ascii=False)
        self._waiting_warnings += line.encode("utf-8", "backslashreplace") + b"\n"
        self._write_warnings()

    def finish(self, status: str) -> None:
        if self._file is not None:
            self._write_waiting()
            if self._waiting_warnings:
                self._write_warnings()
            with suppress(OSError):  # a network drive reports here what it could not write
                self._file.close()
            self._file = None

    def _go_on_with_line(self, path: Path) -> None:
        """Read the last line, so that further keys of its step are added to it, as in an uninterrupted run."""
        last = path.read_bytes().splitlines(keepends=True)[-1:]
        with suppress(documents.DocumentError, IndexError):  # the line was not written by ttstrain
            values = documents.check_object(documents.parse(last[0], numbers="any"), {"step": int})
            self._step, self._values = values.pop("step"), values
            self._line_start = self._end - len(last[0])

    def _write_line(self, line: bytes) -> None:
        """Write a line at `_end`, which stands before the last line where that is replaced."""
        self._line_start = self._end
        if self._line_start < self._on_disk:
            self._on_disk, self._waiting = self._line_start, b""
        self._waiting = self._waiting[: self._line_start - self._on_disk]
        if len(self._waiting) + len(line) > MOST_WAITING:
            self._write_waiting()
        if self._waiting and len(self._waiting) + len(line) > MOST_WAITING:
            self._step = -1  # this line is lost, and nothing joins it
            return
        self._waiting += line
        self._end = self._line_start + len(line)
        self._write_waiting()

    def _write_waiting(self) -> None:
        """Write what is not on the disk yet. Where that fails, the file ends behind a whole line and the rest waits."""
        assert self._file is not None, "log before start"
        try:
            self._file.seek(self._on_disk)
            written = 0
            while written < len(self._waiting):
                written += self._file.write(self._waiting[written:])
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self._on_disk)
            self._tell_of_disk(FILE_NAME, error)
        else:
            self._on_disk, self._waiting = self._end, b""
            if self._waiting_warnings:
                self._write_warnings()

    def _write_warnings(self) -> None:
        if self._warnings is None:  # before the start there is nowhere to write
            return
        try:
            with self._warnings.open("ab", buffering=0) as file:
                while self._waiting_warnings:
                    written = file.write(self._waiting_warnings)
                    self._waiting_warnings = self._waiting_warnings[written:]
        except OSError as error:
            self._tell_of_disk(WARNINGS, error)

    def _tell_of_disk(self, name: str, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            self._warn(
                f"cannot write {name}: {error}; training continues, and what is missing is written once there is room"
            )


def read(path: Path) -> list[dict[str, float]]:
    """Return the lines of a `metrics.jsonl` in the order they were written; `null` becomes NaN.

    A torn last line is left out. Raises DataError when any other line is not of this format.
    """
    content = documents.read_bytes(path, error=DataError, most_bytes=documents.MAX_TABLE)
    lines = content.splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(_row(documents.parse(line, numbers="any")))
        except documents.DocumentError as error:
            raise DataError(f"{path}:{number} is not a line of metrics: {error}") from error
    return rows


def _row(values: Any) -> dict[str, float]:
    row = documents.check_object(values, {"step": int})
    row = {key: math.nan if value is None else value for key, value in row.items()}
    return documents.check_object(row, dict.fromkeys(row, float))


def last_step(path: Path) -> int:
    """Return the highest step with a complete line in the file; -1 where there is none, or no file."""
    steps = (int(match[1]) for match in _LINE.finditer(path.read_bytes())) if path.is_file() else ()
    return max(steps, default=-1)


def trim(path: Path, step: int) -> None:
    """Cut the file after the line of `step`; after the last line before it when that step was not logged.

    When a rollback made the step happen twice, the later line counts: its checkpoint replaced the earlier one.
    """
    if not path.exists():
        return
    data = path.read_bytes()
    exact = before = 0
    for match in _LINE.finditer(data):
        if int(match[1]) == step:
            exact = match.end()
        elif int(match[1]) < step:
            before = match.end()
    os.truncate(path, exact or before)


def keep_course(path: Path, step: int) -> Path | None:
    """Copy the lines after `step`, where a resume branches off, to `metrics.<n>.jsonl`; return its path.

    Where the file ends before this step but such a copy reaches it, the run returns to that branch: they are swapped.
    """
    if not path.exists():
        return None
    end = last_step(path)
    older = [file for file in reversed(_kept(path)) if last_step(file) >= step] if end < step else []
    if not older and end <= step:
        return None
    kept = _next_kept(path)
    atomic.write_bytes(kept, path.read_bytes())
    if older:
        atomic.write_bytes(path, older[0].read_bytes())
    return kept


def _set_aside(path: Path) -> None:
    """Rename an earlier run's file, so that a new run starts its own and no line is lost."""
    if path.exists() and path.stat().st_size > 0:
        path.rename(_next_kept(path))


def _kept(path: Path) -> list[Path]:
    """List the copies `metrics.<n>.jsonl`, the oldest first."""
    pattern = re.compile(rf"{re.escape(path.stem)}\.(\d+){re.escape(path.suffix)}")
    numbered = [(int(match[1]), file) for file in path.parent.iterdir() if (match := pattern.fullmatch(file.name))]
    return [file for _, file in sorted(numbered)]


def _next_kept(path: Path) -> Path:
    kept = _kept(path)
    number = int(kept[-1].suffixes[0][1:]) + 1 if kept else 1
    return path.with_name(f"{path.stem}.{number}{path.suffix}")


def _to_json(value: float) -> float | None:
    if not math.isfinite(value):
        return None
    return value if type(value) is int else float(value)
