"""The metrics of a run as series over its steps, read from `metrics.jsonl` while the run may still write it.

Legend: n rows, k series.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from ttstrain import documents

Floats = npt.NDArray[np.float64]
MEDIAN_ROWS = 25  # as on the screen: short enough to follow the run, long enough to hide the luck of one batch
_MOST_STEPS = 1 << 53  # what the page's numbers hold exactly
_CHECKED = 200  # bytes of the last line that tell whether the file is still the one that was read


@dataclass(slots=True)
class Series:
    """One metric: its steps, which rise, and its values; NaN where it was not finite."""

    steps: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))

    def cut(self, step: int) -> None:
        """Drop this step and all that follow."""
        place = bisect_left(self.steps, step)
        del self.steps[place:], self.values[place:]


class Metrics:
    """Reads `metrics.jsonl` and goes on where it stopped: only lines that are new or have grown are read again.

    A rollback takes steps again: what was logged of them before is dropped, because no weights belong to it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begin_anew()

    def _begin_anew(self) -> None:
        self.series: dict[str, Series] = {}
        self.last_step = -1
        self.repeated = 0  # rows that a rollback replaced
        self.unreadable = 0  # lines that are no metrics
        self._offset = 0  # byte where the last complete line begins: it may still grow
        self._seen = b""  # the beginning of that line

    def update(self) -> None:
        """Read what is new. Raises OSError when the file is there and cannot be read; no file is no metrics."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                if file.read(len(self._seen)) != self._seen:  # a resume has cut the file
                    self._begin_anew()
                file.seek(self._offset)
                self._read_on(file)
        except FileNotFoundError:
            self._begin_anew()

    def _read_on(self, file: IO[bytes]) -> None:
        """Read complete lines from here on; the first one was read before, unless the file is begun."""
        again, last = bool(self._seen), b""
        for line in file:
            if not line.endswith(b"\n"):
                break
            self._take(line, again=again)
            self._offset += len(last)
            again, last = False, line
        if last:
            self._seen = last[:_CHECKED].rstrip(b"\n}")

    def _take(self, line: bytes, *, again: bool) -> None:
        try:
            row = documents.check_object(documents.parse(line, numbers="any"), {"step": int})
        except documents.DocumentError:
            self.unreadable += 1
            return
        step = row.pop("step")
        if not 0 <= step < _MOST_STEPS:
            self.unreadable += 1
            return
        if step <= self.last_step:
            if not again:
                self.repeated += self._logged_since(step)
            for one in self.series.values():
                one.cut(step)
        self.last_step = step
        for key, value in row.items():
            if value is None or isinstance(value, int | float):
                if (series := self.series.get(key)) is None:
                    series = self.series[key] = Series()
                series.steps.append(step)
                series.values.append(math.nan if value is None or not math.isfinite(value) else float(value))

    def _logged_since(self, step: int) -> int:
        return max((len(one.steps) - bisect_left(one.steps, step) for one in self.series.values()), default=0)

    def keys(self, prefix: str) -> list[str]:
        """Return the keys of metrics that begin with `prefix`, in the order in which they were first logged."""
        return [key for key in self.series if key.startswith(prefix)]

    def value_at(self, key: str, step: int) -> float | None:
        """Return a metric's finite value at a step; None where there is none."""
        series = self.series.get(key)
        if series is None:
            return None
        place = bisect_left(series.steps, step)
        found = series.values[place] if place < len(series.steps) and series.steps[place] == step else math.nan
        return found if math.isfinite(found) else None

    def not_finite(self) -> dict[str, list[int]]:
        """Return the steps at which a metric was logged as NaN or infinity, by its key; those that never were lack."""
        found = {}
        for key, series in self.series.items():
            if len(where := np.flatnonzero(np.isnan(np.asarray(series.values)))):
                found[key] = np.asarray(series.steps)[where].tolist()
        return found

    def last(self, key: str) -> float | None:
        """Return a metric's last finite value; None without any."""
        series = self.series.get(key, Series())
        return next((value for value in reversed(series.values) if math.isfinite(value)), None)


def align(found: Sequence[Series]) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return all steps (n,) of these series, and their values (k, n), NaN where a series has none."""
    steps = np.unique(np.concatenate([np.asarray(one.steps, np.int64) for one in found]))
    values = np.full((len(found), len(steps)), np.nan)
    for row, one in zip(values, found, strict=True):
        row[np.searchsorted(steps, np.asarray(one.steps, np.int64))] = np.asarray(one.values)
    return steps, values


def running_median(values: Floats) -> Floats:
    """Return the median of each value (n,) and those before it, `MEDIAN_ROWS` in all; NaN counts as none."""
    padded = np.concatenate([np.full(MEDIAN_ROWS - 1, np.nan), values])
    windows = np.lib.stride_tricks.sliding_window_view(padded, MEDIAN_ROWS)
    with np.errstate(all="ignore"):
        empty = np.isnan(windows).all(axis=1)
        filled = np.where(empty[:, None], 0.0, windows)
        medians = np.nanmedian(filled, axis=1)
    return np.where(empty, np.nan, medians)


def thin(values: Floats, *, most: int) -> npt.NDArray[np.int64]:
    """Choose at most about `most` rows of (k, n): in each stretch the lowest and the highest of every series.

    Every row that is kept is one that was logged, so a peak of one step stays. A series that has few values keeps all.
    """
    num_series, rows = values.shape
    if rows <= most:
        return np.arange(rows)
    known = ~np.isnan(values)
    rare = (known.sum(axis=1) <= most // (2 * num_series)) & known.any(axis=1)
    kept = {0, rows - 1, *np.flatnonzero(known[rare].any(axis=0)).tolist()}
    stretches = max(1, most // (2 * max(1, int((~rare).sum()))))
    edges = np.linspace(0, rows, stretches + 1).astype(int)
    for series, there in zip(values[~rare], known[~rare], strict=True):
        for low, high in pairwise(edges.tolist()):
            if there[low:high].any():
                part = series[low:high]
                kept |= {int(low + np.nanargmin(part)), int(low + np.nanargmax(part))}
    return np.array(sorted(kept))


def written(values: Mapping[str, float] | Sequence[float] | Floats, *, digits: int = 5) -> list[float | None]:
    """Return numbers as JSON takes them, with so many significant digits; None for NaN."""
    items = values.values() if isinstance(values, Mapping) else values
    return [None if not math.isfinite(value) else float(f"{float(value):.{digits}g}") for value in items]
