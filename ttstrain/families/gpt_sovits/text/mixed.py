"""Code shared by Mandarin and Cantonese: numbers in characters, five marks, and Latin words in the text.

Latin words are read as English; upstream's front ends drop them. Their phonemes are counted at their first letter, so
that `word2ph` has an entry for every character.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from ttstrain.families.gpt_sovits.text import english, english_text
from ttstrain.families.gpt_sovits.text.han_numbers import by_digits, write_out
from ttstrain.families.gpt_sovits.text.reading import Reading, load, unsaid
from ttstrain.families.gpt_sovits.text.symbols import PAUSES, UNKNOWN

_MARKS = str.maketrans({
    "：": ",", ":": ",", "；": ",", ";": ",", "，": ",", "、": ",", "·": ",", "・": ",", "/": ",", "\n": ".", "。": ".",
    "！": "!", "？": "?", "~": "…", "～": "…",
})  # fmt: skip
_HANZI = r"\u3400-\u4dbf\u4e00-\u9fff〇"
_LATIN = r"[A-Za-z]+(?:['-][A-Za-z]+)*"
_RUN = re.compile(rf"[{_HANZI}]+|{_LATIN}|[!?…,.]")

Read = Callable[[str], Sequence[Sequence[str]]]
"""Returns the phonemes of each character of a run of Chinese characters; none of one that it cannot read."""


def read_mixed(text: str, read: Read, *, simplify: bool) -> Reading:
    """Read a sentence of Chinese characters, marks and Latin words."""
    normalized = normalize(text, simplify=simplify)
    phones: list[str] = []
    word2ph: list[int] = []
    dropped = unsaid(text, lambda part: normalize(part, simplify=simplify), plain=_is_plain)
    for run in re.findall(rf" |{_RUN.pattern}", normalized):
        if run == " ":
            word2ph.append(0)
        elif run in PAUSES:
            phones.append(run)
            word2ph.append(1)
        elif run[0].isascii():
            spoken = english.read_words(english_text.normalize(run, english.dictionary()))
            phones.extend(spoken)
            word2ph.extend([len(spoken), *[0] * (len(run) - 1)])
        else:
            for character, parts in zip(run, read(run), strict=True):
                phones.extend(parts or [UNKNOWN])
                word2ph.append(len(parts) or 1)
                if not parts:
                    dropped.append(character)
    return Reading(tuple(phones), normalized, tuple(word2ph), tuple(dict.fromkeys(dropped)))


def normalize(text: str, *, simplify: bool) -> str:
    """Write numbers, dates, units and signs in characters; `simplify` traditional ones.

    Of marks in a row the first stays, quotation marks and brackets go, dashes become pauses.
    """
    text = re.sub(rf"(?<=[{_HANZI}])\s+|\s+(?=[{_HANZI}])", "", text)  # 2011 年 is a year as 2011年 is
    text = re.sub(r"[—–―]+", "，", write_out(text, cantonese=not simplify))
    if text.strip():
        text = _verbalizer(simplify).normalize(text.replace("…", "……"))
    if not simplify:
        text = text.replace("幺", "一").replace("两百", "二百")
    text = re.sub(r"\d+", lambda found: by_digits(found[0]), text)  # digits that no rule has replaced
    text = re.sub(r"\.{2,}", "…", text.translate(_MARKS))
    text = " ".join(_RUN.findall(text))
    text = re.sub(r"(?<![A-Za-z]) | (?![A-Za-z])", "", text)
    return re.sub(r"([!?…,.])[!?…,.]+", r"\1", text).lstrip("…,.")


@cache
def _verbalizer(simplify: bool) -> Any:
    return load("wetext", language="zh").Normalizer(
        lang="zh", operator="tn", traditional_to_simple=simplify, full_to_half=True
    )


def _is_plain(character: str) -> bool:
    return "\u4e00" <= character <= "\u9fff" or (character.isascii() and character.isalnum())
