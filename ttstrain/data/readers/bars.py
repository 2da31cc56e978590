"""Characters that look like the separator `|`, which input methods and editors insert instead of it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ttstrain.data.readers.lines import Line

BAR = "|"
LOOKALIKES = "｜￨│┃∣ǀ¦"  # full-width and half-width forms, box drawing, "divides", a click, the broken bar
_LOOKALIKE = re.compile(f"[{LOOKALIKES}]")


def with_plain_bars(lines: Sequence[Line], *, columns: int | None = None) -> tuple[list[Line], frozenset[int]]:
    """Replace look-alikes with `|`; return the lines, and the numbers of those that were changed.

    A line is changed if it has no `|`, no tab, and no comma before its first look-alike; if the number of columns is
    known, also if it has that number only with the look-alikes.
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
