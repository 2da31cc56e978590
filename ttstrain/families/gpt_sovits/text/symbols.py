"""The symbols of GPT-SoVITS in the order of their ids: 322 of v1, and 410 that all later versions have after them.

The order is that of the published weights. The first part is sorted by code point as a whole; what v2 brought was put
behind it in three groups, each sorted by itself: marks of pitch, Korean, Cantonese.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache

from ttstrain.errors import RecipeError

PAUSES = ("!", "?", "…", ",", ".", "-")
"""Marks that stand in texts and are symbols themselves."""
UNKNOWN = "UNK"
PADDING = "_"
PITCH_RISE, PITCH_FALL = "[", "]"
"""Japanese accents, known to v2 and later."""
KOREAN_SPACE, KOREAN_STOP = "空", "停"


def _names(names: str) -> tuple[str, ...]:
    return tuple(names.split())


_SPECIAL = (PADDING, UNKNOWN, "SP", "SP2", "SP3")

# Chinese: initials of Opencpop's phonemes, three of them for syllables that begin with a vowel, and finals with tones.
_INITIALS = _names("AA EE OO b c ch d f g h j k l m n p q r s sh t w x y z zh")
_FINALS = _names(
    "E En a ai an ang ao e ei en eng er i i0 ia ian iang iao ie in ing iong ir iu "
    "o ong ou u ua uai uan uang ui un uo v van ve vn"
)
_CHINESE_TONES = "12345"

_JAPANESE = _names("I N U a b by ch cl d dy e f g gy h hy i j k ky m my n ny o p py r ry s sh t ts u v w y z")

# English: ARPAbet with stress. Two vowels without stress are symbols too, a bare UW is not.
_ARPABET_VOWELS = _names("AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW")
_ARPABET_CONSONANTS = _names("B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH")
ARPABET = (*(vowel + stress for vowel in _ARPABET_VOWELS for stress in "012"), *_ARPABET_CONSONANTS, "ER", "IH")

_KOREAN = (*"ㄱㄴㄷㄹㅁㅂㅅㅇㅈㅊㅋㅌㅍㅎㄲㄸㅃㅆㅉㅏㅓㅗㅜㅡㅣㅐㅔ", KOREAN_SPACE, KOREAN_STOP)

# Cantonese: a Y before every part of a Jyutping syllable. Upstream cuts the longest beginning that it takes for an
# initial, vowels included, so that much stands with tones, without, or both ways.
_CANTONESE_TONED = _names(
    "a aa aai aak aam aan aang aap aat aau ai ak am an ang ap at au e ei ek eng eoi eon eot g i ik im in ing ip it iu "
    "k m n o oe oek oeng oi ok on ong ot ou p t u ui uk un ung ut yu yun yut"
)
CANTONESE_BARE = _names("a aa ai ak au b c d e f g gw h j k kw l m n ng o oi ok on ou p s t uk w z")
_CANTONESE_TONES = "123456"


@cache
def symbols(version: str) -> tuple[str, ...]:
    """Return all symbols of a version, each at the place that is its id.

    Raises RecipeError for a version that GPT-SoVITS does not have.
    """
    if version == "v1":
        return tuple(sorted(set(_first_symbols())))
    if version in ("v2", "v2Pro", "v2ProPlus", "v3", "v4"):
        korean, cantonese = sorted(_KOREAN), sorted(_cantonese())
        return (*symbols("v1"), PITCH_RISE, PITCH_FALL, *korean, *cantonese)
    raise RecipeError(f"GPT-SoVITS has no version `{version}`", hint="v1, v2, v2Pro or v2ProPlus")


@cache
def symbol_ids(version: str) -> Mapping[str, int]:
    """Map each symbol to its id."""
    return {symbol: index for index, symbol in enumerate(symbols(version))}


def _first_symbols() -> Iterable[str]:
    yield from _SPECIAL
    yield from PAUSES
    yield from _INITIALS
    yield from (final + tone for final in _FINALS for tone in _CHINESE_TONES)
    yield from _JAPANESE
    yield from ARPABET


def _cantonese() -> Iterable[str]:
    yield from ("Y" + part + tone for part in _CANTONESE_TONED for tone in _CANTONESE_TONES)
    yield from ("Y" + part for part in CANTONESE_BARE)
