"""A long text as units that are placed in clips: words, or characters in scripts without spaces. No torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ttstrain.data.pieces import WITHOUT_SPACES
from ttstrain.data.transcript import script, skeleton

_TOKEN = re.compile(r"\S+")
_SENTENCE_ENDS = ".!?…。！？｡।؟۔"
_OTHER_MARKS = ",;:،؛、，；：—–"
_CLOSING = "\"'”’»)]}」』"


@dataclass(frozen=True, slots=True)
class Unit:
    """A word, or a character of a script without spaces."""

    key: str  # letters and digits only, without case
    word: str  # with the apostrophes within it, as dictionaries have it
    start: int  # in the text, with the marks before it
    end: int  # with the marks after it
    stop: float  # how surely a pause follows, by its marks: 0 none, 0.5 a comma, 1 the end of a sentence


def units(text: str) -> list[Unit]:
    """Divide a text; marks without letters, such as dashes, belong to the unit before them."""
    found: list[Unit] = []
    for token in _TOKEN.finditer(text):
        for start, end in _parts(token.group(), token.start()):
            piece = text[start:end]
            key = skeleton(piece)
            if key:
                found.append(Unit(key, _word(piece), start, end, _stop(piece)))
            elif found:
                last = found[-1]
                found[-1] = replace(last, end=end, stop=max(last.stop, _stop(piece)))
    if found:  # an opening mark without a letter before it
        found[0] = replace(found[0], start=0)
    return found


def text_of(text: str, chosen: Sequence[Unit]) -> str:
    """Return what a text says in a row of its units, as it is written, on one line."""
    return " ".join(text[chosen[0].start : chosen[-1].end].split()) if chosen else ""


def _parts(token: str, offset: int) -> list[tuple[int, int]]:
    """Divide between characters of scripts without spaces; marks stay with the character before them."""
    bounds = [0]
    after_alone = False  # whether the part so far holds a character of such a script
    for i, c in enumerate(token):
        alone = c.isalnum() and script(c) in WITHOUT_SPACES
        if i > bounds[-1] and c.isalnum() and (alone or after_alone) and skeleton(token[bounds[-1] : i]):
            bounds.append(i)
            after_alone = False
        after_alone = after_alone or alone
    return [(offset + a, offset + b) for a, b in zip(bounds, [*bounds[1:], len(token)], strict=True)]


def _word(piece: str) -> str:
    plain = piece.casefold().replace("’", "'")
    return "".join(c for c in plain if c.isalnum() or c == "'").strip("'")


def _stop(piece: str) -> float:
    bare = piece.rstrip(_CLOSING)
    if not bare:
        return 0.0
    return 1.0 if bare[-1] in _SENTENCE_ENDS else 0.5 if bare[-1] in _OTHER_MARKS else 0.0
