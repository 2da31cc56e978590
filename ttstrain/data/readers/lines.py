"""Lines of a text file, for tables whose every character but the separator and the line end is content."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import NamedTuple

from ttstrain import documents
from ttstrain.data.readers.rows import TableError
from ttstrain.errors import DataError

MOST_BYTES = 1 << 30
MOST_ROWS = 10_000_000  # a row takes about a kilobyte of memory while a table is read
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
NOT_TEXT = {
    b"RIFF": "a RIFF file (wav)",
    b"fLaC": "a FLAC file",
    b"OggS": "an Ogg file",
    b"ID3": "an MP3 file",
    b"PK\x03\x04": "a zip archive or an Excel workbook",
    b"PAR1": "a Parquet file",
    b"\x1f\x8b": "a gzip archive",
    b"\x89PNG": "a picture",
}


class Line(NamedTuple):
    """One line, counted from 1, without its end."""

    number: int
    text: str


def read_text(path: Path) -> str:
    """Return a file's text: UTF-8, or UTF-16 where a mark says so. Never guesses.

    Raises TableError naming the line that is not UTF-8.
    """
    try:
        content = documents.read_bytes(path, error=DataError, most_bytes=MOST_BYTES)
    except DataError as error:
        raise TableError("unreadable", error.message, hint=error.hint) from error
    if content.count(b"\n") > MOST_ROWS:
        raise TableError("unreadable", f"`{path}` has more than {MOST_ROWS:,} lines", hint="train on a part of it")
    if kind := next((kind for magic, kind in NOT_TEXT.items() if content.startswith(magic)), None):
        raise TableError("encoding", f"`{path}` is not text: it is {kind}")
    if content.startswith(UTF16_MARKS):
        return _decoded(path, content, "utf-16")
    if content.count(0) > len(content) // 10:
        raise TableError(
            "encoding", f"`{path}` is not UTF-8 text: it is full of NUL bytes", hint="save the file as UTF-8"
        )
    return _decoded(path, content, "utf-8-sig")


def _decoded(path: Path, content: bytes, encoding: str) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line = before.count(b"\n") + 1 if b"\n" in content else before.count(b"\r") + 1
        raise TableError(
            "encoding",
            f"`{path}` line {line} is not {encoding.upper().removesuffix('-SIG')}: "
            f"byte 0x{content[error.start]:02x} at offset {error.start}",
            hint="save the file as UTF-8; no encoding is guessed, because a wrong guess spoils text silently",
        ) from error


def split_lines(text: str) -> list[Line]:
    """Split at LF or CRLF, or at CR in a file that has no LF; nothing else ends a line. Blank lines are left out."""
    lines = (line.removesuffix("\r") for line in raw_lines(text))
    return [Line(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def raw_lines(text: str) -> list[str]:
    """Split as `split_lines` does, but leave blank lines, and a CR before LF."""
    return text.split("\n" if "\n" in text else "\r")
