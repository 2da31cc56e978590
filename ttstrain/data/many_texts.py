"""What `transcript` says of one text, for many at a time: plain texts are looked at together, the others one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ttstrain.data.transcript import (
    ALPHABET_PER_S,
    DIGIT_LETTERS,
    PAUSE_S,
    PLAIN,
    SYLLABLES_PER_S,
    CleanText,
    clean,
    main_script,
    skeleton,
    unit_of,
)

AT_ONCE = 2000  # texts
_ASCII = [chr(c) for c in range(128) if chr(c) != "\n"]  # but the end of a line, which parts texts
_PLAIN_LINES = bytes(c for c in range(128) if PLAIN.fullmatch(f"a{chr(c)}") or chr(c) == "\n")
_NO_ALNUM = bytes(ord(c) for c in _ASCII if not c.isalnum())
_NO_LETTERS = bytes(ord(c) for c in _ASCII if not c.isalpha())
_UNSEEN, _DIGIT = 255, 128  # in `_units`
_UNITS = ("", "letter", "syllable", "digit")
_NO_UNITS = {unit: bytes(ord(c) for c in _ASCII if unit_of(c) != unit) for unit in ("letter", "digit")}
_NO_DIGITS = bytes(ord(c) for c in _ASCII if not c.isdigit())
_units = np.full(0x110000, _UNSEEN, dtype=np.uint8)  # of each character: place in `_UNITS`, and `_DIGIT` if it is one


@dataclass(frozen=True, slots=True)
class Said:
    """How long many texts may take to say, and which hold digits."""

    least: npt.NDArray[np.float64]  # (n,) seconds
    most: npt.NDArray[np.float64]  # (n,) seconds
    holds_digit: npt.NDArray[np.bool_]  # (n,)


def clean_all(texts: Sequence[str]) -> tuple[list[str], dict[int, CleanText]]:
    """Clean every text as `clean` does; the second value maps the places of those with repairs to all that it says."""
    cleaned: list[str] = []
    repaired: dict[int, CleanText] = {}
    for some in _some(texts):
        if _all_plain(some):
            cleaned += map(str.strip, some)
            continue
        for text in some:
            one = clean(text)
            if one.repairs:
                repaired[len(cleaned)] = one
            cleaned.append(one.text)
    return cleaned, repaired


def said(texts: Sequence[str]) -> Said:
    """Say what `spoken_seconds` does of every text, and whether it holds a digit."""
    counts = np.concatenate([np.zeros((0, 4)), *map(_counted, _some(texts))])  # (n, 4)
    letters, syllables, digits = counts[:, 0], counts[:, 1], counts[:, 2]
    least = (letters + digits * DIGIT_LETTERS[0]) / ALPHABET_PER_S[1] + syllables / SYLLABLES_PER_S[1]
    most = (letters + digits * DIGIT_LETTERS[1]) / ALPHABET_PER_S[0] + syllables / SYLLABLES_PER_S[0]
    return Said(least, most + PAUSE_S, counts[:, 3] > 0)


def skeletons(texts: Sequence[str]) -> list[str]:
    """Return the `skeleton` of every text."""
    found: list[str] = []
    for some in _some(texts):
        joined = _ascii(some)
        bare = None if joined is None else joined.lower().translate(None, _NO_ALNUM).decode().split("\n")
        found += map(skeleton, some) if bare is None else bare
    return found


def main_scripts(texts: Sequence[str]) -> list[str]:
    """Return the `main_script` of every text."""
    found: list[str] = []
    for some in _some(texts):
        joined = _ascii(some)
        if joined is None:
            found += map(main_script, some)
        else:
            letters = _sizes(joined.translate(None, _NO_LETTERS)) > 0
            found += ["LATIN"] * len(some) if letters.all() else ["LATIN" if any_ else "" for any_ in letters]
    return found


def _all_plain(texts: Sequence[str]) -> bool:
    """Tell whether `PLAIN` matches all of them."""
    joined = _ascii(texts)
    if joined is None or joined.translate(None, _PLAIN_LINES):
        return False
    said = b"\n" + joined.translate(None, _NO_ALNUM) + b"\n"
    return b"\n\n" not in said  # each holds a letter or digit


def _ascii(texts: Sequence[str]) -> bytes | None:
    """Return texts as lines; None if one is not ASCII or has a line break."""
    joined = "\n".join(texts)
    return joined.encode() if joined.isascii() and joined.count("\n") == len(texts) - 1 else None


def _some(texts: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(texts), AT_ONCE):
        yield list(texts[start : start + AT_ONCE])


def _counted(texts: Sequence[str]) -> npt.NDArray[np.float64]:
    """Count letters, syllables, digits as they are spoken, and digits as they are written: (n, 4)."""
    if (joined := _ascii(texts)) is not None:
        none = np.zeros(len(texts))
        letters, digits = (_sizes(joined.translate(None, _NO_UNITS[unit])) for unit in ("letter", "digit"))
        return np.stack([letters, none, digits, _sizes(joined.translate(None, _NO_DIGITS))], axis=1)
    units = _units_of("".join(texts))
    sizes = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    starts = np.cumsum(sizes) - sizes
    counts = np.zeros((len(texts), 4))
    unit = units & ~np.uint8(_DIGIT)
    for place, where in enumerate((unit == 1, unit == 2, unit == 3, units >= _DIGIT)):
        if where.any():
            counts[sizes > 0, place] = np.add.reduceat(where, starts[sizes > 0], dtype=np.int64)
    return counts


def _sizes(lines: bytes) -> npt.NDArray[np.float64]:
    """Return the length of every line, (n,)."""
    if not lines.strip(b"\n"):
        return np.zeros(len(lines) + 1)
    ends = np.flatnonzero(np.frombuffer(lines + b"\n", dtype=np.uint8) == ord("\n"))
    return np.diff(ends, prepend=-1).astype(np.float64) - 1


def _units_of(text: str) -> npt.NDArray[np.uint8]:
    """Return what each character is, (n,), as `_units` has it."""
    if text.isascii():
        codes = np.frombuffer(text.encode(), dtype=np.uint8)
    else:
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    units = _units[codes]
    if (units == _UNSEEN).any():
        for code in np.unique(codes[units == _UNSEEN]).tolist():
            _units[code] = _UNITS.index(unit_of(chr(code))) + (_DIGIT if chr(code).isdigit() else 0)
        units = _units[codes]
    return units
