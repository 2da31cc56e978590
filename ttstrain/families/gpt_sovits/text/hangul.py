"""Korean pronunciation: how the end of a syllable and the beginning of the next change each other.

Rules of Standard Pronunciation by their numbers (표준 발음법, 1988). Where a rule depends on the part of speech, the
commoner case is assumed: a stem in ㄺ or ㄻ is a verb's, and verbs in ㄴ and ㅁ (신다, 감고) do not make the next
consonant tense.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ttstrain.families.gpt_sovits.text.n_insertion import inserted, is_soft

_ONSETS = "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ"
_VOWELS = "ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ"
_CODAS = ("", *"ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ")
_FIRST = 0xAC00

_DOUBLE = {
    "ㄳ": ("ㄱ", "ㅅ"),
    "ㄵ": ("ㄴ", "ㅈ"),
    "ㄶ": ("ㄴ", "ㅎ"),
    "ㄺ": ("ㄹ", "ㄱ"),
    "ㄻ": ("ㄹ", "ㅁ"),
    "ㄼ": ("ㄹ", "ㅂ"),
    "ㄽ": ("ㄹ", "ㅅ"),
    "ㄾ": ("ㄹ", "ㅌ"),
    "ㄿ": ("ㄹ", "ㅍ"),
    "ㅀ": ("ㄹ", "ㅎ"),
    "ㅄ": ("ㅂ", "ㅅ"),
}
# Rules 8 to 11: seven consonants end a syllable.
_ENDS = {
    **dict.fromkeys("ㄲㅋㄳㄺ", "ㄱ"),
    **dict.fromkeys("ㅅㅆㅈㅊㅌㅎ", "ㄷ"),
    **dict.fromkeys("ㅍㅄㄿ", "ㅂ"),
    **dict.fromkeys("ㄵㄶ", "ㄴ"),
    **dict.fromkeys("ㄼㄽㄾㅀ", "ㄹ"),
    "ㄻ": "ㅁ",
}
_TENSE = {"ㄱ": "ㄲ", "ㄷ": "ㄸ", "ㅂ": "ㅃ", "ㅅ": "ㅆ", "ㅈ": "ㅉ"}
_ASPIRATED = {"ㄱ": "ㅋ", "ㄷ": "ㅌ", "ㅂ": "ㅍ", "ㅈ": "ㅊ"}
_NASAL = {"ㄱ": "ㅇ", "ㄷ": "ㄴ", "ㅂ": "ㅁ"}
_NOUNS_IN_RK, _NOUNS_IN_RM = "닭흙칡", "삶"
_BOUND_NOUNS = (
    "것",
    "거",
    "게",
    "걸",
    "건",
    "겁",
    "수",
    "줄",
    "데",
    "바",
    "적",
    "듯",
)  # after the modifier ㄹ, rule 27

_SIMPLE_VOWELS = {
    "ㅘ": "ㅗㅏ", "ㅙ": "ㅗㅐ", "ㅚ": "ㅗㅣ", "ㅝ": "ㅜㅓ", "ㅞ": "ㅜㅔ", "ㅟ": "ㅜㅣ", "ㅢ": "ㅡㅣ",
    "ㅑ": "ㅣㅏ", "ㅒ": "ㅣㅐ", "ㅕ": "ㅣㅓ", "ㅖ": "ㅣㅔ", "ㅛ": "ㅣㅗ", "ㅠ": "ㅣㅜ",
}  # fmt: skip


@dataclass(slots=True)
class _Syllable:
    written: str
    onset: str
    vowel: str
    coda: str


def pronounced_letters(words: Sequence[str]) -> list[list[str]]:
    """Return the letters of each word as they are pronounced in a row, vowels as simple ones: 읽다 as ㅇㅣㄱㄸㅏ.

    Consonants change across a space as well, but none moves to the next word.
    """
    taken = [[_take_apart(character) for character in word] for word in words]
    for i, place in inserted(words):
        before = taken[i][place - 1] if place else taken[i - 1][-1]
        if before.coda and is_soft(taken[i][place].onset, taken[i][place].vowel):  # rule 29
            taken[i][place].onset = "ㄴ"
    flat = [(syllable, i == 0) for word in taken for i, syllable in enumerate(word)]
    for (left, _), (right, begins) in pairwise(flat):
        _meet(left, right, joined=not begins)
    for syllable, _ in flat:
        if syllable.coda == "ㄼ" and syllable.written == "밟":
            syllable.coda = "ㅂ"
        syllable.coda = _ENDS.get(syllable.coda, syllable.coda)
    return [[letter for syllable in word for letter in _letters(syllable)] for word in taken]


def is_hangul(character: str) -> bool:
    """Whether a character is a syllable of Hangul."""
    return "가" <= character <= "힣"


def is_closed(character: str) -> bool:
    """Whether a syllable ends in a consonant."""
    return is_hangul(character) and bool(_take_apart(character).coda)


def _take_apart(character: str) -> _Syllable:
    rest, coda = divmod(ord(character) - _FIRST, len(_CODAS))
    onset, vowel = divmod(rest, len(_VOWELS))
    return _Syllable(character, _ONSETS[onset], _VOWELS[vowel], _CODAS[coda])


def _letters(syllable: _Syllable) -> str:
    vowel = syllable.vowel
    if syllable.onset in "ㅈㅉㅊ" and vowel == "ㅕ":  # rule 5.1
        vowel = "ㅓ"
    if vowel == "ㅢ" and _take_apart(syllable.written).onset != "ㅇ":  # rule 5.3: 희망, but 국의
        vowel = "ㅣ"
    return syllable.onset + _SIMPLE_VOWELS.get(vowel, vowel) + syllable.coda


# ---------------------------------------------------------------- two syllables


def _meet(left: _Syllable, right: _Syllable, *, joined: bool) -> None:
    if not left.coda:
        return
    if right.onset == "ㅇ":
        if joined:
            _link(left, right)
    elif right.onset == "ㅎ":
        _aspirate_before(left, right)
    elif left.coda in "ㅎㄶㅀ":
        _aspirate_after(left, right)
    else:
        _assimilate(left, right, joined=joined)


def _link(left: _Syllable, right: _Syllable) -> None:
    """Move a consonant to the syllable that begins with a vowel: rules 12.4, 13, 14 and 17."""
    if left.coda == "ㅇ":
        return
    stays, moves = _DOUBLE.get(left.coda, ("", left.coda))
    if moves in "ㄷㅌ" and right.vowel in "ㅣㅕ":  # 굳이, 붙여
        moves = "ㅈ" if moves == "ㄷ" else "ㅊ"
    elif moves == "ㅎ":  # 좋아, 많아
        stays, moves = "", stays or "ㅇ"
    elif moves == "ㅅ" and stays:  # 값이
        moves = "ㅆ"
    left.coda, right.onset = stays, moves


def _aspirate_before(left: _Syllable, right: _Syllable) -> None:
    """Let ㅎ make the consonant before it aspirated: 국화, 맏형, 앉히다; rule 12.1, and 17 for 굳히다."""
    stays, last = _DOUBLE.get(left.coda, ("", left.coda))
    if not stays:
        last = "ㄱ" if last == "ㄲ" else "ㄷ" if last in "ㅅㅆㅊㅌ" else last  # 옷 한 벌
    if last in _ASPIRATED:
        becomes_affricate = left.coda == "ㄷ" and (
            right.vowel == "ㅣ" or (right.vowel == "ㅕ" and right.coda in ("", "ㅆ"))
        )
        right.onset = "ㅊ" if becomes_affricate else _ASPIRATED[last]
        left.coda = stays
    elif last == "ㅎ":
        left.coda = stays


def _aspirate_after(left: _Syllable, right: _Syllable) -> None:
    """Let a ㅎ at the end act on the next consonant: 좋고, 많지, 싫소, 놓는; rules 12.1 to 12.3."""
    rest, _ = _DOUBLE.get(left.coda, ("", ""))
    if right.onset in "ㄱㄷㅈ":
        right.onset = _ASPIRATED[right.onset]
    elif right.onset == "ㅅ":
        right.onset = "ㅆ"
    elif right.onset == "ㄴ" and not rest:
        rest = "ㄴ"
    left.coda = rest
    if left.coda == "ㄹ" and right.onset == "ㄴ":  # 뚫는
        right.onset = "ㄹ"


def _assimilate(left: _Syllable, right: _Syllable, *, joined: bool) -> None:
    """Make consonants tense, nasal or lateral: rules 11.1, 18 to 20, 23 to 25 and 27."""
    written = left.coda
    end = _ENDS.get(written, written)
    tenses = end in _NASAL or (joined and written in ("ㄼ", "ㄾ", "ㄵ"))
    if written == "ㄼ" and (left.written == "밟" or (left.written == "넓" and right.vowel == "ㅜ")):
        end, tenses = "ㅂ", True
    elif written == "ㄺ" and right.onset == "ㄱ" and left.written not in _NOUNS_IN_RK:  # 읽고
        end = "ㄹ"
    elif written == "ㄻ" and left.written not in _NOUNS_IN_RM:  # 젊다
        tenses = joined
    elif written == "ㄹ" and not joined and right.written in _BOUND_NOUNS:  # 할 수
        tenses = True
    if tenses:
        right.onset = _TENSE.get(right.onset, right.onset)
    if end in _NASAL and right.onset in "ㄴㅁㄹ":
        end = _NASAL[end]
        right.onset = "ㄴ" if right.onset == "ㄹ" else right.onset
    elif end in "ㅁㅇ" and right.onset == "ㄹ":
        right.onset = "ㄴ"
    elif end == "ㄴ" and right.onset == "ㄹ":
        end = "ㄹ"
    elif end == "ㄹ" and right.onset == "ㄴ" and (joined or left.written not in "을를"):
        right.onset = "ㄹ"
    left.coda = end


# ---------------------------------------------------------------- numbers

_DIGITS = "영일이삼사오육칠팔구"
_SCALES = ("", "만", "억", "조", "경")
_NATIVE_TENS = ("", "열", "스물", "서른", "마흔", "쉰", "예순", "일흔", "여든", "아흔")
_NATIVE_ONES = ("", "한", "두", "세", "네", "다섯", "여섯", "일곱", "여덟", "아홉")


def sino_number(digits: str) -> str:
    """Read a number with Chinese numerals, 이천이십사; leading zeros and very long numbers digit by digit."""
    if (len(digits) > 1 and digits[0] == "0") or len(digits) > 4 * len(_SCALES):
        return "".join("공" if digit == "0" else _DIGITS[int(digit)] for digit in digits)
    if digits == "0":
        return "영"
    spoken = ""
    for scale in range((len(digits) - 1) // 4, -1, -1):
        end = len(digits) - 4 * scale
        group = digits[max(end - 4, 0) : end].zfill(4)
        part = "".join(
            ("" if digit == "1" and unit else _DIGITS[int(digit)]) + unit
            for digit, unit in zip(group, ("천", "백", "십", ""), strict=True)
            if digit != "0"
        )
        if part:
            spoken += ("" if part == "일" and scale == 1 else part) + _SCALES[scale]
    return spoken


def native_number(value: int) -> str:
    """Count up to 99 in Korean, as before a counter: 스물한, 스무."""
    return "스무" if value == 20 else _NATIVE_TENS[value // 10] + _NATIVE_ONES[value % 10]
