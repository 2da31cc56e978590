"""Bars that only look like the separator `|`: input methods and editors put them in its place."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ttstrain.data.readers.lines import Line

BAR = "|"
LOOKALIKES = "｜￨│┃∣ǀ¦"  # full-width and half-width forms, box drawing, "divides", a click, the broken bar
_LOOKALIKE = re.compile(f"[{LOOKALIKES}]")


def with_plain_bars(lines: Sequence[Line], *, columns: int | None = None) -> tuple[list[Line], frozenset[int]]:
    """Put `|` for bars that only look like it; return the lines, and the numbers of those that were changed.

    A line is changed that has no `|`, no tab, and no comma before its first bar; of a table whose number of columns is
    known also one that has as many only with them.
    """
    changed = frozenset(line.number for line in lines if _is_meant(line.text, columns=columns))
    plain = [
        Line(line.number, _LOOKALIKE.sub(BAR, line.text)) if line.number in changed else line
        for line in lines
    ]  # fmt: skip
    return plain, changed


def _is_meant(text: str, *, columns: int | None) -> bool:
    before, *more = _LOOKALIKE.split(text)
    if not more:
        return False
    if BAR not in text:
        return "," not in before and "\t" not in text
    return columns is not None and text.count(BAR) < columns - 1 == text.count(BAR) + len(more)
