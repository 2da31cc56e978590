"""Split long texts into pieces that a model can generate in one pass.

A piece ends after a punctuation mark, of any script. A part without marks that is still too long is cut at spaces, and
between characters in scripts without spaces.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ttstrain.data.transcript import script

# Marks of Indic, Arabic, Urdu, Armenian, Ethiopic, Khmer, Burmese, Tibetan and East Asian texts.
_SENTENCE_ENDS = "।॥؟۔։።፧។៕။།༎。！？｡．…"
_OTHER_MARKS = "،؛፣፤፥၊、､；：，—"
SENTENCE_END = re.compile(rf"(?<=[.!?])\s+|(?<=[{_SENTENCE_ENDS}])\s*(?![{_SENTENCE_ENDS}])")
ANY_MARK = re.compile(rf"(?<=[;:,.!?])\s+|(?<=[{_SENTENCE_ENDS}{_OTHER_MARKS}])\s*(?![{_SENTENCE_ENDS}{_OTHER_MARKS}])")
WITHOUT_SPACES = ("CJK", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")

Size = Callable[[str], float]


@dataclass(frozen=True, slots=True)
class _Part:
    text: str
    glue: str  # what stood between it and the next


def cut(text: str, *, size: Size, most: float, marks: Sequence[re.Pattern[str]]) -> list[str]:
    """Cut a text into pieces of size `most` or less; a single word may exceed it.

    `marks` are patterns of places to cut at, tried in order: a later one only cuts parts that are still too long.
    Only spaces at the cuts are dropped.
    """
    pieces: list[str] = []
    piece = ""
    for part in _parts(text, size, most, marks):
        if piece and size(piece) + size(part.text) > most:
            pieces.append(piece.strip())
            piece = ""
        piece += part.text + part.glue
    return [*pieces, piece.strip()] if piece.strip() else pieces


def _parts(text: str, size: Size, most: float, marks: Sequence[re.Pattern[str]]) -> Iterator[_Part]:
    for part in _split(text, marks[0]):
        if size(part.text) <= most:
            yield part
            continue
        finer = list(_parts(part.text, size, most, marks[1:]) if marks[1:] else _at_spaces(part.text, size, most))
        yield from finer[:-1]
        yield from (_Part(last.text, part.glue) for last in finer[-1:])


def _split(text: str, mark: re.Pattern[str]) -> Iterator[_Part]:
    start = 0
    for found in mark.finditer(text):
        if found.start() > start:
            yield _Part(text[start : found.start()], _glue(text[start : found.start()], found[0]))
            start = found.end()
    if text[start:]:
        yield _Part(text[start:], _glue(text[start:], ""))


def _glue(text: str, between: str) -> str:
    """Return a space after ASCII, as upstream F5-TTS does, and elsewhere if the text has one."""
    return " " if between or text[-1].isascii() else ""


def _at_spaces(text: str, size: Size, most: float) -> Iterator[_Part]:
    """Cut at spaces into parts of about equal length; cut within a word only if its script has no spaces."""
    units = [unit for word in text.split() for unit in _units(word, too_long=size(word) > most)]
    share = size(text) / max(1, math.ceil(size(text) / most)) if most > 0 else 0.0
    held = ""
    for unit in units:
        if held and (size(held) >= share or size(held + unit.text) > most):
            yield _Part(held.strip(), " " if held.endswith(" ") else "")
            held = ""
        held += unit.text + unit.glue
    if held:
        yield _Part(held.strip(), "")


def _units(word: str, *, too_long: bool) -> list[_Part]:
    if not too_long or not any(script(c) in WITHOUT_SPACES for c in word):
        return [_Part(word, " ")]
    characters: list[str] = []
    for c in word:
        if characters and (unicodedata.category(c)[0] in "MP" or c in "\u200c\u200d"):
            characters[-1] += c  # signs belong to the character before
        else:
            characters.append(c)
    return [*(_Part(c, "") for c in characters[:-1]), _Part(characters[-1], " ")]
