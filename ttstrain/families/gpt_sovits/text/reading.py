"""The result type of every language's front end, the import of their libraries, and unspoken signs."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ttstrain.errors import RecipeError

SIGNS = frozenset("%#&@*/\\§¶†‡•※‰_")  # punctuation in Unicode, but often spoken as words
_MOST_JUDGED = 64  # signs of a text that are checked one by one
INSTALL = 'pip install "ttstrain[gpt_sovits]"'


@dataclass(frozen=True, slots=True)
class Reading:
    """A sentence as phonemes, before unknown ones are replaced.

    `word2ph` is the number of phonemes of each character of `normalized`; only Chinese and Cantonese have it.
    `dropped` are letters, digits and symbols of the text that are not spoken.
    """

    phones: tuple[str, ...]
    normalized: str
    word2ph: tuple[int, ...] | None = None
    dropped: tuple[str, ...] = ()


def load(module: str, *, language: str) -> Any:
    """Import a library of the `gpt_sovits` extra.

    Raises RecipeError with the command that installs it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise RecipeError(
            f"reading `{language}` texts needs `{error.name}`, which is not installed", hint=INSTALL
        ) from error


def is_spoken(character: str) -> bool:
    """Tell letters, digits and signs, whose loss is reported, from punctuation and spaces."""
    return unicodedata.category(character)[0] in "LNS" or unicodedata.normalize("NFKC", character) in SIGNS


def unsaid(text: str, say: Callable[[str], object], *, plain: Callable[[str], bool]) -> list[str]:
    """Return, in order, the letters and signs of a text whose removal does not change the result of `say`.

    A minus counts as a sign if a number follows it. `plain` tells characters that are always spoken.
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
    """Whether a slash stands between two letters or digits, as in and/or: it is not spoken."""
    return text[place] == "/" and text[:place][-1:].isalnum() and text[place + 1 : place + 2].isalnum()


def _is_minus(text: str, place: int) -> bool:
    after = text[place + 1 : place + 2]
    return text[place] in "-－−" and after.isdecimal() and not text[:place][-1:].isalnum()
