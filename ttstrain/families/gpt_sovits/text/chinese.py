"""Mandarin phonemes: numbers in words, words, pinyin, spoken tones, initials and finals.

Characters with several readings are resolved by pypinyin's phrases. Upstream also uses a neural net (g2pW), with which
the published weights from v2 on were trained; the two differ in a few characters of a hundred sentences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from ttstrain.families.gpt_sovits.text.mixed import read_mixed
from ttstrain.families.gpt_sovits.text.pinyin import split_syllable
from ttstrain.families.gpt_sovits.text.polyphones import reading_of
from ttstrain.families.gpt_sovits.text.reading import Reading, load
from ttstrain.families.gpt_sovits.text.tone_sandhi import Word, merge_words, spoken_tones, word_list

_INTERJECTIONS = str.maketrans({"嗯": "恩", "呣": "母"})  # as upstream: their own syllables have no symbols
_DIGITS = frozenset("零〇一二三四五六七八九")
_NUMERALS = _DIGITS | frozenset("十百千万亿")
_BEFORE_ONE = "这那每某另同任哪"
_PLACES = "上下里"
# Characters that stand alone mostly as a particle, or have one reading alone and another in words.
_ALONE = {"地": "de5", "得": "de5", "着": "zhe5", "了": "le5", "长": "chang2"}


def read(text: str, version: str) -> Reading:
    """Read a sentence; `normalized` has simplified characters, Latin words and five marks."""
    erhua = version != "v1"
    text = text.translate(_INTERJECTIONS)
    return read_mixed(text, lambda run: [_phones(syllable) for syllable in _syllables(run, erhua=erhua)], simplify=True)


def _syllables(run: str, *, erhua: bool) -> list[str]:
    """Return the syllable of each character as it is spoken, with its tone: `ni2 hao3`."""
    library = load("rjieba", language="zh")
    cut = _cut(run, library.tag)
    readings = _pinyin(run, [word for word, _ in cut])
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
    return [
        "yi1" if character == "一" and _is_counted(run, i) else syllable
        for i, (character, syllable) in enumerate(zip(run, spoken, strict=True))
    ]


def _cut(run: str, tag: Callable[[str, bool], Sequence[tuple[str, str]]]) -> list[tuple[str, str]]:
    """Return words and their parts of speech; particles and places that jieba's model of new words joins are parted.

    The 一 of 这一 goes with the word that follows, as upstream's cutting has it.
    """
    words: list[tuple[str, str]] = []
    for word, pos in tag(run, True):
        if len(word) == 2 and word[1] == "一" and word[0] in _BEFORE_ONE:
            words.extend([(word[0], "r"), ("一", "m")])
            continue
        words.extend(_parted(word, tag) or [(word, pos)])
    return words


def _parted(word: str, tag: Callable[[str, bool], Sequence[tuple[str, str]]]) -> Sequence[tuple[str, str]]:
    """Return the dictionary's words in a guessed one that begins with a particle or ends with a place, else none.

    开心 地说, 绳 上.
    """
    if len(word) == 1 or (word[0] not in _ALONE and word[-1] not in _PLACES):
        return ()
    known = tag(word, False)
    begins = word[0] in _ALONE and known[0][0] == word[0]
    ends = word[-1] in _PLACES and known[-1][0] == word[-1]
    return known if begins or ends else ()


def _is_counted(run: str, i: int) -> bool:
    """Whether 一 is a digit of a longer number, and keeps its tone: 二十一天, 一九九零年, not 统一一下."""
    before = run[max(i - 2, 0) : i]
    if before.endswith("一"):
        before = before[:-1]
    return before[-1:] in _NUMERALS or run[i + 1 : i + 2] in _DIGITS


def _pinyin(run: str, words: Sequence[str]) -> list[str]:
    """Return the reading of each character: by pypinyin's phrases, else by what stands around it."""
    library = load("pypinyin", language="zh")
    readings: list[str] = []
    for word in words:
        place = len(readings)
        alone = _ALONE.get(word)
        own: list[str] = (
            [alone]
            if alone
            else library.lazy_pinyin(word, style=library.Style.TONE3, neutral_tone_with_five=True, errors=_each_unread)
        )
        readings.extend(
            reading_of(run, place + i, in_phrase=_in_phrase(word, i)) or reading for i, reading in enumerate(own)
        )
    return readings


@lru_cache(maxsize=1 << 14)
def _in_phrase(word: str, place: int) -> bool:
    """Whether one of the dictionary's phrases in a word holds the character at a place."""
    phrases = load("pypinyin.constants", language="zh").PHRASES_DICT
    spans = ((start, end) for start in range(place + 1) for end in range(place + 1, len(word) + 1))
    return any(end - start > 1 and word[start:end] in phrases for start, end in spans)


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
