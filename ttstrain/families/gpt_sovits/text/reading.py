"""What every language's front end returns, and what they say when a library is missing."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ttstrain.errors import RecipeError

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
    """Tell letters, digits and symbols, whose loss a person would want to know of, from punctuation and spaces."""
    return unicodedata.category(character)[0] in "LNS" or character == "%"
