"""Rows and clips of a large table, held column by column: a million objects of each take gigabytes, and minutes.

They are sequences of `Row` and `Clip` like any other; one is made when it is asked for. What looks at one field of all
clips asks `column` for it, and gets it without making any.
"""

from __future__ import annotations

from abc import abstractmethod
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import numpy.typing as npt

from ttstrain.contract.data import Clip, Treatment
from ttstrain.contract.table import Row

_Thing = TypeVar("_Thing")


class _Made(Sequence[_Thing]):
    """A sequence whose members are made one by one."""

    __slots__ = ()

    @abstractmethod
    def _one(self, number: int) -> _Thing:
        """Make the member of this number, which is there."""

    @overload
    def __getitem__(self, number: int) -> _Thing: ...

    @overload
    def __getitem__(self, number: slice) -> list[_Thing]: ...

    def __getitem__(self, number: int | slice) -> _Thing | list[_Thing]:
        numbers = range(len(self))[number]
        return self._one(numbers) if isinstance(numbers, int) else [self._one(one) for one in numbers]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


@dataclass(slots=True, eq=False)
class RowColumns(_Made[Row]):
    """Rows that have a recording, and nothing that is no column here."""

    ids: list[str] = field(default_factory=list)
    audio: list[str] = field(default_factory=list)  # paths
    texts: list[str] = field(default_factory=list)
    speakers: list[str] = field(default_factory=list)
    languages: list[str] = field(default_factory=list)
    seconds: array[float] = field(default_factory=lambda: array("d"))  # 0 where the table says nothing usable
    lines: array[int] = field(default_factory=lambda: array("q"))
    table: str = ""  # its name, as it stands before the line's number in a row's source

    def __len__(self) -> int:
        return len(self.ids)

    def append(self, row: Row) -> None:
        """Add one row, of which `audio` is known."""
        line = int(row.source.removeprefix(f"{self.table}:"))
        values = (row.id, str(row.audio), row.text, row.speaker, row.language, row.seconds, line)
        for held, value in zip(self._columns(), values, strict=True):
            held.append(value)

    def extend(self, rows: RowColumns) -> None:
        """Add rows."""
        for held, more in zip(self._columns(), rows._columns(), strict=True):
            held.extend(more)

    def _columns(self) -> tuple[Any, ...]:
        return self.ids, self.audio, self.texts, self.speakers, self.languages, self.seconds, self.lines

    def source(self, number: int) -> str:
        """Say where a row stands."""
        return f"{self.table}:{self.lines[number]}"

    def _one(self, number: int) -> Row:
        return Row(
            id=self.ids[number],
            audio=Path(self.audio[number]),
            text=self.texts[number],
            speaker=self.speakers[number],
            language=self.languages[number],
            seconds=self.seconds[number],
            source=self.source(number),
        )


@dataclass(frozen=True, slots=True, eq=False)
class ClipColumns(_Made[Clip]):
    """Clips of recordings that were not opened, all of one table."""

    rows: RowColumns  # their texts and languages as the clips have them
    ends: npt.NDArray[np.int64]  # (n,), of each row's recording, in samples
    sample_rate: int  # Hz
    notes: Mapping[int, tuple[str, ...]]  # by row; most have none
    numbers: Sequence[int]  # the row of each clip; a range: every row

    def __len__(self) -> int:
        return len(self.numbers)

    def _one(self, number: int) -> Clip:
        row = self.numbers[number]
        rows, end = self.rows, int(self.ends[row])
        return Clip(
            id=rows.ids[row],
            path=Path(rows.audio[row]),
            text=rows.texts[row],
            speaker=rows.speakers[row],
            language=rows.languages[row],
            duration_s=end / self.sample_rate,
            sample_rate=self.sample_rate,
            source=rows.source(row),
            treatment=Treatment(end=end),
            notes=self.notes.get(row, ()),
        )

    def column(self, name: str) -> Sequence[Any]:
        """Return one field of every clip."""
        rows = self.rows
        held: dict[str, Sequence[Any]] = {
            "id": rows.ids,
            "path": rows.audio,
            "text": rows.texts,
            "speaker": rows.speakers,
            "language": rows.languages,
        }
        if name in held:
            values = held[name]
            return values if isinstance(self.numbers, range) else [values[row] for row in self.numbers]
        if name in ("num_samples", "duration_s"):
            ends = self.ends if isinstance(self.numbers, range) else self.ends[np.array(self.numbers, dtype=np.int64)]
            own: list[Any] = (ends if name == "num_samples" else ends / self.sample_rate).tolist()
            return own
        same: dict[str, Any] = {"sample_rate": self.sample_rate, "digest": "", "tokens": ()}
        return [same[name]] * len(self)


def column(clips: Sequence[Clip], name: str) -> Sequence[Any]:
    """Return one field of every clip; paths of clips that are held in columns are texts."""
    return clips.column(name) if isinstance(clips, ClipColumns) else [getattr(clip, name) for clip in clips]


def taken(clips: Sequence[Clip], numbers: Sequence[int]) -> Sequence[Clip]:
    """Return the clips at these places."""
    if isinstance(clips, ClipColumns):
        return replace(clips, numbers=[clips.numbers[i] for i in numbers])
    return [clips[i] for i in numbers]


def together(*parts: Sequence[Clip]) -> Sequence[Clip]:
    """Return the clips of all parts."""
    held = [part for part in parts if len(part)]
    first = held[0] if held else ()
    if isinstance(first, ClipColumns):
        of_one = [part for part in held if isinstance(part, ClipColumns) and part.rows is first.rows]
        if len(of_one) == len(held):
            return replace(first, numbers=[row for part in of_one for row in part.numbers])
    return [clip for part in held for clip in part]
