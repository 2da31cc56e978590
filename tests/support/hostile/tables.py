"""Edits of tables of text: csv, tsv, `.list` and plain lists of texts."""

from __future__ import annotations

from random import Random

from hostile.mutation import Edited, plain_bytes
from hostile.trees import TEXTS

_CELLS = (
    *TEXTS,
    '"',
    '""',
    '"a"b',
    'a"|"b',
    "|",
    "｜",
    "\t",
    ",",
    "#",
    "file:///etc/passwd",
    "http://127.0.0.1/x.wav",
    "wavs/../../secret.wav",
    "ok.wav\0.txt",
    "\u2028",
    "1e400",
    "[1" + ",1" * 3000 + "]",
    "[" * 3000,
    "-" * 60_000 + "1",
    "9" * 6000,
)
_BROKEN = (b"\xff\xfe", b"\xed\xa0\x80", b"\xc3", b"\0", b"\x1a", b"\xf4\x90\x80\x80", b"\r", b"\x85", b"\x0c")
_ENCODINGS = ("utf-16", "utf-16-be", "utf-32", "latin-1", "utf-8-sig", "cp037")


def edit_table(rng: Random, content: bytes) -> Edited:
    """Edit a table: a cell, a line, its encoding or its bytes."""
    kind = rng.random()
    if kind < 0.1:
        return plain_bytes(rng, content)
    if kind < 0.2:
        place = rng.randint(0, len(content))
        return Edited(content[:place] + rng.choice(_BROKEN) + content[place:], "bytes that are no text", plain=True)
    if kind < 0.26:
        encoding = rng.choice(_ENCODINGS)
        text = content.decode("utf-8", "replace")
        return Edited(text.encode(encoding, "replace"), f"as {encoding}", plain=True)
    text = content.decode("utf-8", "replace")
    separator = next((mark for mark in "|\t," if mark in text), "|")
    lines = text.split("\n")
    number = rng.randrange(max(1, len(lines) - 1))
    how = _edit_line(rng, lines, number, separator)
    ending = rng.choice(("\n", "\n", "\n", "\r\n", "\r"))
    return Edited(ending.join(lines).encode("utf-8", "surrogatepass"), f"line {number + 1}: {how}", plain=True)


def _edit_line(rng: Random, lines: list[str], number: int, separator: str) -> str:
    cells = lines[number].split(separator)
    column = rng.randrange(len(cells))
    kind = rng.randrange(9)
    if kind < 4:
        cells[column] = rng.choice(_CELLS)
        how = "another cell"
    elif kind == 4:
        place = rng.randint(0, len(cells[column]))
        cells[column] = cells[column][:place] + rng.choice(_CELLS) + cells[column][place:]
        how = "something within a cell"
    elif kind == 5:
        cells = [*cells, *cells] if rng.random() < 0.5 else cells[:-1]
        how = "more or fewer columns"
    elif kind == 6:
        lines.insert(number, rng.choice(("", "#", "|||", "a|b", "\t", '"', "x" * 200_000, separator * 3000)))
        return "another line before"
    elif kind == 7:
        lines.insert(rng.randint(0, len(lines)), lines[number])
        return "repeated"
    else:
        cells = [f'"{cell}"' for cell in cells]
        how = "quoted"
    lines[number] = separator.join(cells)
    return how
