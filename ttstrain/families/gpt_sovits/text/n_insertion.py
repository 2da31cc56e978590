"""Where ㄴ is said before a vowel that begins with i or y: 꽃잎 [꼰닙], 서울역 [서울력], 할 일 [할릴].

Rule 29 of Standard Pronunciation applies to compounds, and to two words said as one, which the spelling does not show.
So the commoner second parts of compounds are listed, and words that end like them and are no compounds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

_SOFT_VOWELS = frozenset("ㅣㅑㅕㅛㅠㅒㅖ")

# Nouns that join a compound with ㄴ wherever they stand inside a word.
_NOUNS = (
    "잎 이불 이야기 이름 여행 여름 연필 열차 여자 여성 여우 여섯 여덟 "
    "엿 윷 요기 요리 요금 유리 영화 역사 영어 연구 연습 예술 연극 잇몸"
)
_WORDS = (
    "물약 알약 두통약 내복약 진통약 위장약 소독약 식용유 휘발유 막일 부엌일 집안일 별일 볼일 "
    "뒷일 앞일 옛일 밭일 들일 헛일 궂은일 바깥일 허드렛일 나랏일 맨입 한입 "
    "베갯잇 담요 밤이슬 설익 금융 검열 남존여비 낯익 짓이기"
)  # each with ㄴ before its last soft vowel that has a consonant before it
_ALONE = (
    "별일",
    "볼일",
    "앞일",
    "옛일",
    "밭일",
    "들일",
    "헛일",
    "막일",
    "뒷일",
    "맨입",
    "한입",
)  # of them, at a beginning
_SUFFIXES = {  # after two syllables or more: a station, for the use of, an inflammation
    "역": "번역 면역 통역 영역 직역 방역 병역 현역 전역 광역 음역 퇴역",
    "용": "활용 적용 작용 착용 복용 식용 약용 악용 인용 신용 전용 혼용 겸용 남용 통용 응용 병용 공용 관용 "
    "상용 임용 고용 채용",
    "염": "감염 전염",
}
_PARTICLES = "에서|에|은|이|을|까지|으로|의|과|도|부터|만|앞|품|입니다|이다|이에요|행|쪽"
_SIX = re.compile("(?<=[십백천만억])육|(?<=[일삼칠팔공영][일삼칠팔])육")

# Words after which another word is said in one breath.
_BEFORE_WORK = (
    "할 한 무슨 볼 쓸 그런 이런 저런 어떤 좋은 나쁜 힘든 급한 바쁜 하는 있는 없는 다른 어려운 쉬운 많은 옛 맡은"
)
_WORK = re.compile("일(?:이|을|은|도|로|에|의|과|만|까지|부터|입니다|이다|이에요|이야|들)?")
_BEFORE_VERBS = ("못", "잘")
_NOT_VERBS = re.compile("여러|요즘|이것|이런|이렇|이미|이제|이번|일단|일부")


def inserted(words: Sequence[str]) -> set[tuple[int, int]]:
    """Return the places, (word, syllable), before which a ㄴ is said. The consonant before is the caller's to check."""
    places = {(i, place) for i, word in enumerate(words) for place in _in_word(word)}
    return places | {(i + 1, 0) for i, (left, right) in enumerate(pairwise(words)) if _joins(left, right)}


def is_soft(onset: str, vowel: str) -> bool:
    """Whether a syllable begins with i or y, and with no consonant."""
    return onset == "ㅇ" and vowel in _SOFT_VOWELS


def _in_word(word: str) -> Iterable[int]:
    for noun in _NOUNS.split():
        yield from (found.start() for found in re.finditer(noun, word) if found.start())
    for known in _WORDS.split():
        start = word.find(known)
        if start == 0 or (start > 0 and known not in _ALONE):  # 한입, not 북한입니다
            yield start + max(place for place, syllable in enumerate(known) if syllable in "약유일입잇요이익융열여")
    for suffix, others in _SUFFIXES.items():
        found = re.search(rf"..({suffix})(?=$|(?:{_PARTICLES})$|(?:{_PARTICLES})[가-힣]{{0,2}}$)", word)
        if found and word[found.start(1) - 1 : found.end(1)] not in others.split():
            yield found.start(1)
    yield from (found.start() for found in _SIX.finditer(word))


def _joins(left: str, right: str) -> bool:
    if left in _BEFORE_WORK.split():
        return _WORK.fullmatch(right) is not None
    if left in _BEFORE_VERBS:
        return _NOT_VERBS.match(right) is None
    return left == "옷" and right.startswith("입")
