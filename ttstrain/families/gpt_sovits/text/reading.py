"""What every language's front end returns, and what they say when a library is missing."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ttstrain.errors import RecipeError

SIGNS = frozenset("%#&@*/\\§¶†‡•※‰_")  # punctuation by Unicode, and words where they are said
_MOST_JUDGED = 64  # signs of a text
INSTALL = 'pip install "ttstrain[gpt_sovits]"'


@dataclass(frozen=True, slots=True)
class Reading:
    """A sentence as phonemes, before unknown ones are replaced.

    `word2ph` says for each character of `normalized` how many phonemes it has; Chinese and Cantonese have it. `dropped`
    are letters, digits and symbols of the text that are not spoken.
    """

    phones: tuple[str, ...]
    normalized: str
    word2ph: tuple[int, ...] | None = None
    dropped: tuple[str, ...] = ()


def load(module: str, *, language: str) -> Any:
    """Import a library of the `gpt_sovits` extra.

    Raises RecipeError that tells how to install it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise RecipeError(
            f"reading `{language}` texts needs `{error.name}`, which is not installed", hint=INSTALL
        ) from error


def is_spoken(character: str) -> bool:
    """Tell letters, digits and signs, whose loss a person would want to know of, from punctuation and spaces."""
    return unicodedata.category(character)[0] in "LNS" or unicodedata.normalize("NFKC", character) in SIGNS


def unsaid(text: str, say: Callable[[str], object], *, plain: Callable[[str], bool]) -> list[str]:
    """Return the letters and signs of a text that make no difference to what `say` makes of it, each in its place.

    A minus counts as a sign where a number follows it. `plain` tells characters that are always spoken.
    """
    places = [
        place
        for place, character in enumerate(text)
        if (is_spoken(character) and not plain(character) and not _joins(text, place)) or _is_minus(text, place)
    ]
    if not places:
        return []
    if len(places) > _MOST_JUDGED:  # a page of emoji: each sign where it first stands
        first = {text[place]: place for place in reversed(places)}
        places = sorted(first.values())
    said = say(text)
    return [text[place] for place in places if say(f"{text[:place]} {text[place + 1 :]}") == said]


def _joins(text: str, place: int) -> bool:
    """Whether a slash stands between two letters or digits, as in and/or: nobody says it."""
    return text[place] == "/" and text[:place][-1:].isalnum() and text[place + 1 : place + 2].isalnum()


def _is_minus(text: str, place: int) -> bool:
    after = text[place + 1 : place + 2]
    return text[place] in "-－−" and after.isdecimal() and not text[:place][-1:].isalnum()
