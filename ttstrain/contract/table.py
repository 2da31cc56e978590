"""Tables of recordings: rows, findings about them, and the layouts that families read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, Protocol

from ttstrain.contract.data import Ready

Action = Literal["accept", "fix", "skip", "refuse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a table of recordings."""

    id: str
    audio: Path | None  # None: no file could be named
    text: str
    speaker: str = ""
    language: str = ""
    gain_db: float = 0.0  # by which the recording is to be made louder when it is read
    seconds: float = 0.0  # of the recording, as the table says; 0 where it says nothing usable
    source: str  # "metadata.csv:12"
    tokens: tuple[str, ...] = ()  # what a front end made of the text, where only that is known
    ready: tuple[Ready, ...] = ()


@dataclass(frozen=True, slots=True)
class RowFinding:
    """One finding about one row: what is done about it, a short code, and a sentence."""

    row: Row
    action: Action
    reason: str
    why: str


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table, or one key of its objects, and what it is read as."""

    use: str  # "file", "text", "speaker", ...; empty where it is not used
    name: str  # "column 2", or its name in backticks
    example: str  # its first value that is not blank


@dataclass(frozen=True, slots=True)
class RowTable:
    """The rows of a data set and the findings of reading them."""

    format: str  # its name, one of `ttstrain.data.formats`
    root: Path  # the folder of the data set
    rows: Sequence[Row]
    findings: list[RowFinding] = field(default_factory=list)  # of rows left out, and of lines that are no rows
    files_anywhere: bool = False  # whether the format names files by absolute path
    columns: tuple[Column, ...] = ()


@dataclass(frozen=True, slots=True)
class Layout:
    """Which column holds what. Column numbers from 0."""

    audio: int
    texts: tuple[int, ...]  # the first that is there and not blank is the text
    counts: tuple[int, ...]  # how many columns a sound row has
    audio_is_id: bool = False  # the column of files holds names such as LJ001-0001
    id: int | None = None
    speaker: int | None = None
    language: int | None = None
    gain: int | None = None
    seconds: int | None = None
    names: tuple[str, ...] = ()  # of the columns, where there is no header that says them


class TableFormat(Protocol):
    """A folder that an upstream's own tools have prepared for training."""

    name: str  # what `data.format` says
    label: str  # for people

    def sniff(self, path: Path) -> bool:
        """Tell by its files whether a folder is one."""
        ...

    def read(self, path: Path) -> RowTable:
        """Read its rows. Raises DataError when it cannot be read."""
        ...


class LineFormat(ABC):
    """A table with one recording per line and separators between its columns, files named by any path."""

    name: ClassVar[str]  # what `data.format` says
    label: ClassVar[str]  # for people
    layout: ClassVar[Layout | None]  # of lines without a header; None: it needs one
    header: ClassVar[str] = ""  # an example of the header that it needs
    ending: ClassVar[str] = ""  # of its files, if they have one of their own

    @abstractmethod
    def sniff(self, path: Path, lines: Sequence[Sequence[str]]) -> bool:
        """Tell by its name and its first lines, cut into columns, whether a table is one."""

    def tables_in(self, folder: Path) -> Sequence[Path]:
        """Find the tables that upstream's tools put elsewhere than at the top of a folder."""
        return ()

    def folders_beside(self, table: Path, *, written: str, speaker: str) -> Iterable[Path]:
        """Yield where a recording may lie that has moved with its table; `written` is its path there."""
        return ()
