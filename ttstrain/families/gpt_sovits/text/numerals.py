"""Roman numbers, which texts of every language have."""

from __future__ import annotations

import re

_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50}


def roman(letters: str) -> int:
    """Return the value of a Roman number up to 89; 0 for letters that are none."""
    if not re.fullmatch("(?:XL|L?X{0,3})(?:IX|IV|V?I{0,3})", letters):
        return 0
    values = [_VALUES[letter] for letter in letters]
    return (
        sum(-one if one < after else one for one, after in zip(values, [*values[1:], 0], strict=True)) if values else 0
    )
