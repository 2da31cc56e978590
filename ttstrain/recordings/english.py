"""How English words that the recogniser's dictionary lacks are said: numbers spelled out, other words by letter rules.

Phones are those of CMUdict. The rules are rough: such a word only has to take its place between words that are known.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_ONES = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS = ["zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SCALES = ((1_000_000_000, "billion"), (1_000_000, "million"), (1_000, "thousand"), (100, "hundred"))
_LARGEST = 10**12

_RULES = {  # the longest spelling first
    "tion": "SH AH N", "sion": "ZH AH N", "ough": "AO", "eigh": "EY", "augh": "AO",
    "sch": "SH", "tch": "CH", "igh": "AY", "dge": "JH", "eau": "OW", "ere": "IH R", "oei": "OY",
    "ch": "CH", "sh": "SH", "th": "TH", "ph": "F", "wh": "W", "ck": "K", "ng": "NG", "qu": "K W", "kn": "N",
    "wr": "R", "gh": "G", "oo": "UW", "ee": "IY", "ea": "IY", "ai": "EY", "ay": "EY", "oa": "OW", "ou": "AW",
    "ow": "OW", "oi": "OY", "oy": "OY", "au": "AO", "aw": "AO", "ei": "AY", "ie": "IY", "ey": "IY", "ue": "UW",
    "oe": "OW", "er": "ER", "ir": "ER", "ur": "ER", "ar": "AA R", "or": "AO R", "ce": "S", "ci": "S IH",
    "bb": "B", "cc": "K", "dd": "D", "ff": "F", "gg": "G", "ll": "L", "mm": "M", "nn": "N", "pp": "P", "rr": "R",
    "ss": "S", "tt": "T", "zz": "Z",
    "a": "AE", "b": "B", "c": "K", "d": "D", "e": "EH", "f": "F", "g": "G", "h": "HH", "i": "IH", "j": "JH", "k": "K",
    "l": "L", "m": "M", "n": "N", "o": "AA", "p": "P", "q": "K", "r": "R", "s": "S", "t": "T", "u": "AH", "v": "V",
    "w": "W", "x": "K S", "y": "IY", "z": "Z",
}  # fmt: skip
_LONGEST_RULE = 4


def pronunciations(key: str, *, known: Callable[[str], str | None]) -> list[str]:
    """Return phones for a word of letters and digits; `known` looks up the dictionary. Empty if there are none."""
    if phones := known(key):
        return [phones]
    readings = [_said(reading, known) for reading in _readings(key)]
    return list(dict.fromkeys(phones for phones in readings if phones))


def _said(words: list[str], known: Callable[[str], str | None]) -> str:
    return " ".join(known(word) or _by_letters(word) for word in words).strip()


def _readings(key: str) -> list[list[str]]:
    """Return the ways of reading a word with digits; one way for a word without."""
    parts = re.findall(r"\d+|[^\d]+", key)
    if len(parts) == 1 and parts[0].isdecimal() and len(parts[0]) == 4:
        number = int(parts[0])
        year = _below_hundred(number // 100) + (_below_hundred(number % 100) if number % 100 else ["hundred"])
        return [year, spelled(number)]
    return [[word for part in parts for word in (spelled(int(part)) if part.isdecimal() else [part])]]


def spelled(number: int) -> list[str]:
    """Spell a whole number in words: 1462 is one thousand four hundred sixty two."""
    if number >= _LARGEST:
        return [_ONES[int(digit)] for digit in str(number)]
    words: list[str] = []
    for size, name in _SCALES:
        if number >= size:
            words += [*spelled(number // size), name]
            number %= size
    return [*words, *_below_hundred(number)] if number or not words else words


def _below_hundred(number: int) -> list[str]:
    if number < len(_ONES):
        return [_ONES[number]]
    return [_TENS[number // 10], *([_ONES[number % 10]] if number % 10 else [])]


def _by_letters(word: str) -> str:
    """Return phones by the longest rules, from left to right; a silent e at the end says nothing."""
    if len(word) > 3 and word.endswith("e") and word[-2] not in "aeiou":
        word = word[:-1]
    phones: list[str] = []
    at = 0
    while at < len(word):
        for size in range(_LONGEST_RULE, 0, -1):
            if (said := _RULES.get(word[at : at + size])) is not None:
                phones.append(said)
                at += size
                break
        else:
            at += 1  # no English letter
    return " ".join(phones)
