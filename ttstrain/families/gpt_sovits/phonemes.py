"""A clip's phonemes, from the front end or from a folder prepared by upstream. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Final

from ttstrain.errors import DataError
from ttstrain.families.gpt_sovits.text.front_end import phonemize, spoken_language
from ttstrain.families.gpt_sovits.text.japanese_dictionary import OWN, Dictionary
from ttstrain.families.gpt_sovits.text.symbols import UNKNOWN, symbols

if TYPE_CHECKING:
    from ttstrain.contract.data import Clip

WITH_BERT: Final = "zh"  # the language whose phonemes have features


@dataclass(frozen=True, slots=True)
class Spoken:
    """The phonemes of a clip."""

    ids: tuple[int, ...]
    language: str  # "" where a prepared folder does not say
    normalized: str
    word2ph: tuple[int, ...] | None  # how many phonemes each character of `normalized` has; only Chinese and Cantonese
    unknown: tuple[str, ...] = ()  # phonemes that the table lacks


def language_of(clip: Clip, default: str) -> str:
    """Return the language that a clip is read as: its row's, else the recipe's, else the one its script suggests.

    Raises DataError for a language that GPT-SoVITS does not have.
    """
    return spoken_language(clip.language or default, clip.text)


def read_clip(clip: Clip, *, default_language: str, version: str, dictionary: Dictionary = OWN) -> Spoken:
    """Return a clip's phonemes. Raises DataError if it has none, or one without an id."""
    if clip.tokens:
        return _prepared(clip, version)
    language = language_of(clip, default_language)
    return _cached_phonemes(clip.text, language, version, dictionary)


@lru_cache(maxsize=1 << 16)
def _cached_phonemes(text: str, language: str, version: str, dictionary: Dictionary) -> Spoken:
    read = phonemize(text, language, version=version, dictionary=dictionary)
    if not read.ids:
        raise DataError(f"the text has no phonemes: `{text[:40]}`")
    return Spoken(read.ids, language, read.normalized, read.word2ph, read.unknown)


def _prepared(clip: Clip, version: str) -> Spoken:
    known = _index(version)
    missing = [phone for phone in clip.tokens if phone not in known]
    if missing:  # upstream leaves such a line out as well
        raise DataError(
            f"`{missing[0]}` is not one of the {len(known)} phonemes of {version}",
            hint="was the folder prepared for another version?",
        )
    counts = next((one.values for one in clip.ready if one.name == "word2ph"), None)
    if counts is not None and (sum(counts) != len(clip.tokens) or len(counts) != len(clip.text)):
        counts = None
    is_chinese = counts is not None and not any(_is_cantonese(phone) for phone in clip.tokens)
    return Spoken(
        ids=tuple(known[phone] for phone in clip.tokens),
        language=WITH_BERT if is_chinese else "",
        normalized=clip.text,
        word2ph=counts,
        unknown=tuple(phone for phone in clip.tokens if phone == UNKNOWN),
    )


@cache
def _index(version: str) -> dict[str, int]:
    return {symbol: number for number, symbol in enumerate(symbols(version))}


def _is_cantonese(phone: str) -> bool:
    return len(phone) > 1 and phone.startswith("Y")
