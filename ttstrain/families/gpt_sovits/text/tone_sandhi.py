"""Mandarin tone sandhi.

The rules and the list of words are those of PaddleSpeech's front end, with which the published weights were trained:
the tones of 不 and 一 depend on the next syllable, the first of two third tones rises, and particles, suffixes,
reduplications and some 400 words end in the neutral tone, 5. Words are merged first, so that the rules see words that
are spoken together as one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

_WORDS = Path(__file__).parent / "data" / "mandarin_words.txt"

_PARTICLES = "吧呢哈啊呐噻嘛吖嗨呐哦哒额滴哩哟喽啰耶喔诶"
_STRUCTURAL = "的地得"  # neutral where they are read `de`; upstream's rule takes 土地 for one as well
_ASPECTS = {"了": "ul", "着": "uz", "过": "ug"}
_ASPECT_SYLLABLES = ("le", "zhe", "guo")  # 着 is also the zhao2 of 睡着了
_OBTAIN = ("得", "de2")  # alone, to get
_SUFFIXES, _PLACES, _DIRECTIONS = "们子", "上下里", "来去"
_BEFORE_DIRECTIONS = "上下进出回过起开"
_BEFORE_GE = "几有两半多各整每做是"
_LONGEST_MERGE = 3  # characters

Search = Callable[[str], Sequence[str]]
"""Cuts a word into all shorter words that a dictionary has."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word with its part of speech as jieba's dictionary has it, and a syllable for each character."""

    text: str
    pos: str
    syllables: tuple[str, ...]  # with the tone at the end, `hao3`

    @property
    def tones(self) -> str:
        return "".join(syllable[-1] for syllable in self.syllables)


def merge_words(words: Sequence[Word]) -> list[Word]:
    """Join words that the rules treat as one: 不 and 一 with the next word, reduplications, runs of third tones, 儿."""
    words = _merge(words, lambda left, right: left.text == "不")
    words = _merge_repeated_verbs(words)
    words = _merge(words, lambda left, right: left.text == "一")
    words = _merge(words, lambda left, right: left.text == right.text)
    words = _merge_third_tones(words, lambda left, right: set(left.tones) == set(right.tones) == {"3"})
    words = _merge_third_tones(words, lambda left, right: left.tones[-1] == right.tones[0] == "3")
    return _merge(words, lambda left, right: right.text == "儿" and left.text[-1].isalpha())


def spoken_tones(word: Word, search: Search) -> str:
    """Return the tones of a word as it is spoken, one digit a character."""
    if not word.tones.isdigit():
        return word.tones
    tones = list(word.tones)
    _apply_bu(word.text, tones)
    _apply_yi(word.text, tones)
    parts = _two_parts(word.text, search)
    _apply_neutral(word, tones, parts)
    _apply_third(word.text, tones, parts)
    return "".join(tones)


# ---------------------------------------------------------------- merging


def _join(left: Word, right: Word) -> Word:
    return replace(left, text=left.text + right.text, syllables=left.syllables + right.syllables)


def _merge(words: Sequence[Word], belongs: Callable[[Word, Word], bool]) -> list[Word]:
    merged: list[Word] = []
    for word in words:
        if merged and word.text[0].isalpha() and belongs(merged[-1], word):
            # A word after 不 keeps its part of speech: 不知道 is a verb; 一天 is a number, as in jieba's dictionary.
            pos = word.pos if merged[-1].text == "不" else merged[-1].pos
            merged[-1] = replace(_join(merged[-1], word), pos=pos)
        else:
            merged.append(word)
    return merged


def _merge_repeated_verbs(words: Sequence[Word]) -> list[Word]:
    """Join 听 一 听."""
    merged: list[Word] = []
    i = 0
    while i < len(words):
        word = words[i]
        if merged and word.text == "一" and i + 1 < len(words):
            before, after = merged[-1], words[i + 1]
            if before.text == after.text and before.pos == after.pos == "v":
                merged[-1] = _join(_join(before, word), after)
                i += 2
                continue
        merged.append(word)
        i += 1
    return merged


def _merge_third_tones(words: Sequence[Word], belongs: Callable[[Word, Word], bool]) -> list[Word]:
    """Join two neighbours of three characters at most, never a third one; a reduplication before stays alone."""
    merged: list[Word] = []
    was_joined = False
    for i, word in enumerate(words):
        before = words[i - 1] if i else None
        was_joined = (
            before is not None
            and not was_joined
            and belongs(before, word)
            and not (len(before.text) == 2 and before.text[0] == before.text[1])
            and len(before.text) + len(word.text) <= _LONGEST_MERGE
        )
        if was_joined:
            merged[-1] = _join(merged[-1], word)
        else:
            merged.append(word)
    return merged


# ---------------------------------------------------------------- tones


def _apply_bu(text: str, tones: list[str]) -> None:
    if len(text) == 3 and text[1] == "不":  # 看不懂
        tones[1] = "5"
        return
    for i, character in enumerate(text[:-1]):
        if character == "不" and tones[i + 1] == "4":  # 不怕
            tones[i] = "2"


def _apply_yi(text: str, tones: list[str]) -> None:
    if "一" not in text or all(character.isnumeric() for character in text):  # 二零一零
        return
    if len(text) == 3 and text[1] == "一" and text[0] == text[2]:  # 看一看
        tones[1] = "5"
    elif text.startswith("第一"):
        tones[1] = "1"
    else:
        for i, character in enumerate(text[:-1]):
            if character == "一":  # 一段, 一天
                tones[i] = "2" if tones[i + 1] == "4" else "4"


def _apply_neutral(word: Word, tones: list[str], parts: Sequence[str]) -> None:
    text, pos = word.text, word.pos
    keeps, neutral = word_list("full"), word_list("neutral")
    if text in keeps:
        return
    if pos[:1] in ("n", "v", "a"):
        for end in (2, 4) if len(text) == 4 else (len(text),):
            if text[end - 2 : end] == text[end - 1] * 2:  # 奶奶, 试试, 高高兴兴, but not 银行行长
                tones[end - 1] = "5"
    ge = text.find("个")
    if (
        text[-1] in _PARTICLES
        or (text[-1] in _STRUCTURAL and word.syllables[-1][:-1] == "de" and (text, word.syllables[-1]) != _OBTAIN)
        or (len(text) == 1 and _ASPECTS.get(text) == pos and word.syllables[-1][:-1] in _ASPECT_SYLLABLES)
        or (len(text) > 1 and text[-1] in _SUFFIXES and pos in ("r", "n"))  # 我们, 桌子
        or (len(text) > 1 and text[-1] in _PLACES and pos in ("s", "l", "f"))  # 家里
        or (len(text) > 1 and text[-1] in _DIRECTIONS and text[-2] in _BEFORE_DIRECTIONS)  # 回来
    ):
        tones[-1] = "5"
    elif text == "个" or (ge >= 1 and (text[ge - 1].isnumeric() or text[ge - 1] in _BEFORE_GE)):
        tones[ge] = "5"
    elif text in neutral or text[-2:] in neutral:
        tones[-1] = "5"
    # 来得及, not 我得走 or 不得已
    if len(text) == 3 and text[1] == "得" and text[0] != "不" and word.syllables[1][:-1] == "de":
        tones[1] = "5"
    end = 0
    for part in parts:
        end += len(part)
        if part in neutral or part[-2:] in neutral:
            tones[end - 1] = "5"


def _apply_third(text: str, tones: list[str], parts: Sequence[str]) -> None:
    if len(text) == 2:
        _raise_first(tones, 0, 2)
    elif len(text) == 3 and tones == ["3", "3", "3"]:
        if len(parts[0]) == 2:  # 蒙古 包
            tones[0] = tones[1] = "2"
        else:  # 纸 老虎
            tones[1] = "2"
    elif len(text) == 3:
        border = len(parts[0])
        raised = _raise_first(tones, 0, border) | _raise_first(tones, border, 3)  # 所有 人
        if not raised and border == 1 and tones[:2] == ["3", "3"]:  # 好 喜欢, not 媒体 也
            tones[0] = "2"
    elif len(text) == 4:  # two words of two
        _raise_first(tones, 0, 2)
        _raise_first(tones, 2, 4)


def _raise_first(tones: list[str], start: int, end: int) -> bool:
    if end - start == 2 and tones[start] == tones[start + 1] == "3":
        tones[start] = "2"
        return True
    return False


def _two_parts(text: str, search: Search) -> tuple[str, ...]:
    """Divide a word in two where the shortest word in it begins or ends."""
    shortest = min(search(text), key=len, default=text)
    if text.startswith(shortest):
        return (shortest, text[len(shortest) :]) if shortest != text else (text,)
    return text[: -len(shortest)], text[-len(shortest) :]


@cache
def word_list(name: str) -> frozenset[str]:
    """Return the words that end in the neutral tone (`neutral`), or never do (`full`); `rhotic` and `syllabic` 儿."""
    lines = _WORDS.read_text(encoding="utf-8").splitlines()
    return frozenset(word for line in lines if line.startswith(f"{name} ") for word in line.split()[1:])
