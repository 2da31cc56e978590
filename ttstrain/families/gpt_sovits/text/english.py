"""English phonemes, ARPAbet with stress, by the rules of upstream's front end: CMUdict first, then letters.

Differences from upstream, all closer to how people speak: names that the dictionary lacks are not cut into words, and
other words only into words that it has; semicolons, colons and dashes are pauses; a word in capitals is spelled out
only if the dictionary lacks it. Homographs (verb or noun) are resolved by the neighbouring words; upstream uses a
tagger whose data must be downloaded.
"""

from __future__ import annotations

import lzma
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from ttstrain.families.gpt_sovits.text import english_text
from ttstrain.families.gpt_sovits.text.homographs import choose, homographs
from ttstrain.families.gpt_sovits.text.reading import Reading, load
from ttstrain.families.gpt_sovits.text.spelling import guess
from ttstrain.families.gpt_sovits.text.symbols import UNKNOWN

_DATA = Path(__file__).parent / "data"
_FEWEST_PHONES = 4  # a shorter sentence begins with a comma

# CMUdict has these as words; they are letters. As in upstream's list.
_SPELLED = ("ae", "ai", "ar", "ios", "hud", "os")
_LETTER_A = ("EY1",)
_SIBILANTS = {"S", "Z", "SH", "ZH", "CH", "JH"}
_VOICELESS = {"P", "T", "K", "F", "TH", "HH"}

_TOKEN = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*|[.,?!'-]")


def read(text: str, version: str) -> Reading:
    """Read a sentence; numbers and abbreviations become words first. The result is the same for all versions."""
    normalized = english_text.normalize(text, dictionary())
    phones = read_words(normalized)
    if len(phones) < _FEWEST_PHONES:
        phones = [",", *phones]
    return Reading(tuple(phones), normalized, dropped=tuple(english_text.unread(text, dictionary())))


def read_words(normalized: str) -> list[str]:
    """Return the phonemes of a text of letters and marks."""
    tokens = _TOKEN.findall(normalized)
    phones: list[str] = []
    for index, token in enumerate(tokens):
        if token == "'":
            phones.append("-")  # as upstream, for a quotation mark that stands alone
        elif not token[0].isalpha():
            phones.append(token)
        elif len(token) == 1:
            phones.extend(_LETTER_A if token == "A" else dictionary()[token.lower()])
        elif token.lower() in homographs():
            phones.extend(choose(tokens, index))
        else:
            phones.extend(_word(token, is_name=token.istitle() and index > 0 and tokens[index - 1] not in ".?!"))
    # The net has a vowel that the symbol table lacks; upstream drops it.
    return [UNKNOWN if phone == "<unk>" else phone for phone in phones if phone != "UW"]


@cache
def dictionary() -> Mapping[str, tuple[str, ...]]:
    """Return CMUdict's first pronunciation of each word in lower case, and of some newer words."""
    text = lzma.decompress((_DATA / "cmudict.txt.xz").read_bytes()).decode()
    words = {word: tuple(phones.split(" ")) for word, phones in (line.split(" ", 1) for line in text.splitlines())}
    for word in _SPELLED:
        del words[word]
    more = (_DATA / "english_words.txt").read_text(encoding="utf-8")
    return words | {word: tuple(phones.split()) for word, phones in (line.split(" ", 1) for line in more.splitlines())}


# ---------------------------------------------------------------- words


def _word(word: str, *, is_name: bool = False) -> Sequence[str]:
    """Look a word up, or split it (letters, possessive `'s`, hyphens, compounds); else predict it from its spelling."""
    lower = word.lower()
    if lower in dictionary():
        return dictionary()[lower]
    if len(lower) <= 3:
        return [phone for letter in lower for phone in _letter(letter)]
    if "-" in lower:
        return [phone for part in word.split("-") for phone in _part(part)]
    if lower.endswith("'s"):
        return _possessive(_part(word[:-2]))
    stem = lower.replace("'", "")
    parts = () if is_name else _compound(stem)
    return [phone for part in parts for phone in dictionary()[part]] or guess(stem)


def _part(word: str) -> Sequence[str]:
    return _letter(word.lower()) if len(word) == 1 else _word(word, is_name=word.istitle())


def _letter(letter: str) -> Sequence[str]:
    if letter == "a":
        return _LETTER_A
    return dictionary()[letter] if letter.isalpha() else ("-",)


def _possessive(phones: Sequence[str]) -> Sequence[str]:
    if phones[-1] in _SIBILANTS:
        return [*phones, "AH0", "Z"]
    return [*phones, "S" if phones[-1] in _VOICELESS else "Z"]


@cache
def _compound(word: str) -> Sequence[str]:
    """Split a word into words of the dictionary; empty if a part is too short."""
    library = load("wordsegment", language="en")
    if not library.UNIGRAMS:
        library.load()
    parts: list[str] = library.segment(word)
    return parts if len(parts) > 1 and all(len(part) > 2 and part in dictionary() for part in parts) else ()
