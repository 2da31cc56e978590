"""What a part of the count is, how parts are found, and how one is run.

A part is a file in `parts/` that defines `PART`. It brings faults upon ttstrain, as often as its `Limits` allow, and
yields one `Row` for each kind of fault. In its short form it takes seconds, and every test run counts it.
"""

from __future__ import annotations

import importlib
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

PARTS = Path(__file__).parent / "parts"
Form = Literal["short", "full"]


@dataclass(frozen=True)
class Row:
    """One kind of fault: what ttstrain promises, how often it was tried, and how often the promise held."""

    fault: str
    guarantee: str
    tried: int
    survived: int
    failures: tuple[str, ...] = ()  # what went wrong, a sentence for each try that did not survive


class Tally:
    """Counts tries of one kind of fault, until its row is read."""

    def __init__(self, fault: str, guarantee: str) -> None:
        self.fault, self.guarantee = fault, guarantee
        self.tried = self.survived = 0
        self.failures: list[str] = []

    def add(self, failure: str | None) -> None:
        """Count one try; `failure` says what went wrong, and None that the promise held."""
        self.tried += 1
        self.survived += failure is None
        if failure is not None:
            self.failures.append(failure)

    @property
    def row(self) -> Row:
        return Row(self.fault, self.guarantee, self.tried, self.survived, tuple(self.failures))


@dataclass(frozen=True)
class Limits:
    """How much a part may do. Its tries are those of `seed`: the same seed gives the same faults."""

    form: Form
    minutes: float  # once they are over, a part begins no further try and reports what it has tried
    seed: int
    scratch: Path  # an empty folder, removed afterwards
    started: float = field(default_factory=time.monotonic)

    @property
    def over(self) -> bool:
        return time.monotonic() - self.started > 60 * self.minutes


@dataclass(frozen=True)
class Part:
    """One part of the count. `method` tells a reader how it is counted: what a try is, and when it has survived."""

    title: str
    method: str
    count: Callable[[Limits], Iterable[Row]]
    minutes: float  # of the full form
    by_name: bool = False  # counted only where it is named


def find_parts() -> dict[str, Part]:
    """Import every file of `parts/`; returns name -> part. Raises AttributeError where a file defines no `PART`."""
    names = sorted(path.stem for path in PARTS.glob("*.py") if path.stem != "__init__")
    return {name: importlib.import_module(f"reliability.parts.{name}").PART for name in names}


def count(part: Part, *, form: Form, minutes: float | None = None, seed: int = 0) -> list[Row]:
    """Run a part in a folder of its own and return its rows; `minutes` replaces those of its full form."""
    with scratch_folder() as folder:
        limits = Limits(form, part.minutes if minutes is None else minutes, seed, folder)
        return list(part.count(limits))


@contextmanager
def scratch_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="reliability-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
