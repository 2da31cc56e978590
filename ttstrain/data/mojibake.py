"""Mojibake: UTF-8 that was decoded with a single-byte encoding, as in `SchÃ¶ne`. Repaired where it is certain.

A character beyond ASCII becomes two to four characters, the first an accented capital or `â`, the others punctuation,
signs or controls. Such pairs also occur in correct text: an accented capital at the end of a word, then a dash.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]+")
_ENCODINGS = ("cp1252", "cp1250", "cp1251")
_LEFT = re.compile("[ÃÂ](?![A-Za-zÀ-ÿ])|â€")  # remains if bytes were lost as well
_AFTER_A_LETTER = frozenset("\u00a0\u00ad…–—‘’‚“”„«»‹›™®°•·")  # may follow a letter directly in correct text
_LONG = 4  # decoded characters in a row that make a run certain
_MOST_LAYERS = 3


@dataclass(frozen=True, slots=True)
class Undone:
    """A repaired text."""

    text: str
    before: str  # the first repaired run, as it was
    after: str  # and as it is now
    encoding: str
    num_places: int
    whole: bool  # no mojibake is left


def undo(text: str) -> Undone | None:
    """Repair a text that is certainly mojibake, also where it was decoded wrongly several times; None otherwise."""
    found = None
    for _ in range(_MOST_LAYERS):
        layers = [undone for encoding in _ENCODINGS if (undone := _undo(text, encoding))]
        if not layers:
            break
        layer = max(layers, key=lambda undone: undone.num_places)
        found = replace(layer, before=(found or layer).before)
        text = layer.text
    return found


def _undo(text: str, encoding: str) -> Undone | None:
    if text.isascii():
        return None
    runs = [(run, _decoded(run[0], encoding)) for run in _BEYOND_ASCII.finditer(text)]
    if not any(after is not None and _is_certain(text, run, after) for run, after in runs):
        return None
    pieces, end = [], 0
    for run, after in runs:
        pieces += [text[end : run.start()], run[0] if after is None else after]
        end = run.end()
    result = "".join([*pieces, text[end:]])
    places = [(run[0], after) for run, after in runs if after is not None]
    return Undone(result, *places[0], encoding, num_places=len(places), whole=_LEFT.search(result) is None)


def _decoded(run: str, encoding: str) -> str | None:
    try:
        return b"".join(_byte(c, encoding) for c in run).decode("utf-8")
    except UnicodeError:
        return None


def _byte(c: str, encoding: str) -> bytes:
    """Return a character's byte; C1 controls stand for the bytes that the encoding does not define."""
    return c.encode("latin-1") if "\x80" <= c <= "\x9f" else c.encode(encoding)


def _is_certain(text: str, run: re.Match[str], after: str) -> bool:
    """Tell whether a run cannot be correct text: a capital inside a word, or signs that never follow a letter."""
    if len(after) >= _LONG:
        return True
    before = text[run.start() - 1 : run.start()]
    if before.islower() and run[0][0].isupper():
        return True
    if run[0][0] == "Â" and not before.isalpha() and after[0] >= "\u00a0":
        return True
    start = 0
    for c in after:
        size = len(c.encode())
        if any(not sign.isalpha() and sign not in _AFTER_A_LETTER for sign in run[0][start + 1 : start + size]):
            return True
        start += size
    return False
