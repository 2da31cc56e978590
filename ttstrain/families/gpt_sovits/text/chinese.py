"""Mandarin phonemes: numbers in words, words, pinyin, spoken tones, initials and finals.

Readings of characters with several come from pypinyin's phrases. Upstream asks a neural net besides (g2pW), which the
published weights from v2 on were trained with; the two differ in a few characters of a hundred sentences. Latin words
are read as English; upstream's training drops them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from ttstrain.families.gpt_sovits.text import english, english_text
from ttstrain.families.gpt_sovits.text.pinyin import split_syllable
from ttstrain.families.gpt_sovits.text.reading import Reading, is_spoken, load
from ttstrain.families.gpt_sovits.text.symbols import PAUSES
from ttstrain.families.gpt_sovits.text.tone_sandhi import Word, merge_words, spoken_tones, word_list

_MARKS = str.maketrans({
    "：": ",", ":": ",", "；": ",", ";": ",", "，": ",", "、": ",", "·": ",", "・": ",", "/": ",", "\n": ".", "。": ".",
    "！": "!", "？": "?", "~": "…", "～": "…", "嗯": "恩", "呣": "母",
})  # fmt: skip
_HANZI = r"\u4e00-\u9fff〇"
_LATIN = r"[A-Za-z]+(?:['-][A-Za-z]+)*"
_RUN = re.compile(rf"[{_HANZI}]+|{_LATIN}|[!?…,.]")

# Characters that stand alone mostly as a particle, or have one reading alone and another in words.
_ALONE = {"地": "de5", "得": "de5", "着": "zhe5", "了": "le5", "长": "chang2"}


def read(text: str, version: str) -> Reading:
    """Read a sentence; `normalized` has simplified characters, Latin words and five marks."""
    normalized = normalize(text)
    phones: list[str] = []
    word2ph: list[int] = []
    dropped = [character for character in text if is_spoken(character) and not _is_read(character)]
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
            for character, syllable in zip(run, _syllables(run, erhua=version != "v1"), strict=True):
                parts = _phones(syllable)
                phones.extend(parts or ["UNK"])
                word2ph.append(len(parts) or 1)
                if not parts:
                    dropped.append(character)
    return Reading(tuple(phones), normalized, tuple(word2ph), tuple(dict.fromkeys(dropped)))


def normalize(text: str) -> str:
    """Write numbers, dates, units and signs in characters, and traditional ones simplified.

    Of marks in a row the first stays, quotation marks and brackets go, dashes become pauses.
    """
    text = re.sub(r"[—–―]+", "，", text)
    text = re.sub(rf"(?<=[{_HANZI}])\s+|\s+(?=[{_HANZI}])", "", text)  # 2011 年 is a year as 2011年 is
    text = _verbalizer().normalize(text.replace("…", "……")) if text.strip() else ""
    text = re.sub(r"\.{2,}", "…", text.translate(_MARKS))
    text = " ".join(_RUN.findall(text))
    text = re.sub(r"(?<![A-Za-z]) | (?![A-Za-z])", "", text)
    return re.sub(r"([!?…,.])[!?…,.]+", r"\1", text).lstrip("…,.")


# ---------------------------------------------------------------- syllables


def _syllables(run: str, *, erhua: bool) -> list[str]:
    """Return the syllable of each character as it is spoken, with its tone: `ni2 hao3`."""
    library = load("rjieba", language="zh")
    cut: Sequence[tuple[str, str]] = library.tag(run)
    readings = _pinyin([word for word, _ in cut])
    words: list[Word] = []
    start = 0
    for text, pos in cut:
        words.append(Word(text, pos, tuple(readings[start : start + len(text)])))
        start += len(text)
    spoken: list[str] = []
    for word in merge_words(words):
        tones = spoken_tones(word, library.cut_for_search)
        syllables = [syllable[:-1] + tone for syllable, tone in zip(word.syllables, tones, strict=True)]
        spoken.extend(_erhua(word, syllables) if erhua else syllables)
    return spoken


def _pinyin(words: Sequence[str]) -> list[str]:
    library = load("pypinyin", language="zh")
    readings: list[str] = []
    for word in words:
        alone = _ALONE.get(word)
        readings.extend(
            [alone]
            if alone
            else library.lazy_pinyin(word, style=library.Style.TONE3, neutral_tone_with_five=True, errors=_each_unread)
        )
    return readings


def _each_unread(characters: str) -> list[str]:
    return [character + "5" for character in characters]


def _erhua(word: Word, syllables: list[str]) -> list[str]:
    """Give a rhotic 儿 the tone of the syllable before it; one that is a syllable of its own has its second tone.

    Which is which goes by upstream's lists of words.
    """
    if word.text[-1] != "儿":
        return syllables
    if syllables[-1] == "er1":
        syllables[-1] = "er2"
    stays = word.text not in word_list("rhotic") and (
        word.text in word_list("syllabic") or word.pos in ("a", "j", "nr")
    )
    if (
        len(syllables) > 1
        and not stays
        and word.text[-2:] not in word_list("syllabic")
        and syllables[-1] in ("er2", "er5")
    ):
        syllables[-1] = "er" + syllables[-2][-1]
    return syllables


def _phones(syllable: str) -> list[str]:
    parts = split_syllable(syllable[:-1])
    return [parts[0], parts[1] + syllable[-1]] if parts else []


# ---------------------------------------------------------------- texts


@cache
def _verbalizer() -> Any:
    return load("wetext", language="zh").Normalizer(
        lang="zh", operator="tn", traditional_to_simple=True, full_to_half=True
    )


@cache
def _is_read(character: str) -> bool:
    """Whether a character becomes something to say, alone or beside a number."""
    if "\u4e00" <= character <= "\u9fff" or (character.isascii() and character.isalnum()):
        return True
    around = (f"{character}2", f"2{character}", f"2{character}2", f"二{character}二")
    return any(len(re.sub(r"[!?…,.]", "", normalize(text))) > text.count("2") + text.count("二") for text in around)
