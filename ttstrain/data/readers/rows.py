"""What a reader hands to the audit: rows as they are written down, and what was wrong with those it could not use."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ttstrain.contract.data import Ready
from ttstrain.errors import DataError

Format = Literal[
    "ljspeech",
    "f5_csv",
    "gpt_sovits_list",
    "jsonl",
    "audiofolder",
    "parquet",
    "wav_txt",
    "f5_project",
    "gpt_sovits_project",
]
Action = Literal["accept", "fix", "skip", "refuse"]

LABELS: dict[Format, str] = {
    "ljspeech": "LJSpeech table (id|text|normalised text)",
    "f5_csv": "table with a header (audio_file|text)",
    "gpt_sovits_list": "GPT-SoVITS list (path|speaker|language|text)",
    "jsonl": "JSON lines",
    "audiofolder": "Hugging Face audio folder (file_name, ...)",
    "parquet": "Parquet with the audio inside",
    "wav_txt": "recordings with a text file beside each",
    "f5_project": "project of F5-TTS, raw.arrow",
    "gpt_sovits_project": "prepared folder of GPT-SoVITS, 2-name2text.txt",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a table of recordings."""

    id: str
    audio: Path | None  # None: no file could be named
    text: str
    speaker: str = ""
    language: str = ""
    source: str  # "metadata.csv:12"
    tokens: tuple[str, ...] = ()  # what a front end made of the text, where only that is known
    ready: tuple[Ready, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
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

    format: Format
    root: Path  # the folder of the data set
    rows: list[Row]
    verdicts: list[Verdict] = field(default_factory=list)  # of rows left out, and of lines that are no rows
    files_anywhere: bool = False  # whether the format names files by absolute path
    columns: tuple[Column, ...] = ()


class TableError(DataError):
    """A table that cannot be read at all, with the same kind of reason code as a verdict."""

    def __init__(self, reason: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


def printable(text: str, *, limit: int = 60) -> str:
    """Escape what would change a terminal, and shorten to `limit` characters."""
    cut = text[: limit + 1]
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
