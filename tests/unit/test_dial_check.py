"""`scripts/dial_check.py`: what counts as reached, and the table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import dial_check


def _mark(blend: float, *, likeness: float, undone: float | None) -> dict[str, Any]:
    mean = {"mean": 0.8 * likeness, "low": 0.7, "high": 0.9, "clips": 8}
    return {"blend": blend, "voice": mean, "likeness": likeness, "words": None, "retention": mean, "undone": undone}


BASE, WHOLE = _mark(0, likeness=0.7, undone=1.0), _mark(1, likeness=1.0, undone=0.0)


def test_reached_takes_the_blend_that_undoes_most_and_keeps_the_similarity() -> None:
    kept, better, lost = (
        _mark(0.85, likeness=0.99, undone=0.5),
        _mark(0.7, likeness=0.98, undone=0.6),
        _mark(0.5, likeness=0.97, undone=0.8),
    )
    assert dial_check.reached({"blends": [BASE, lost, better, kept, WHOLE]}) is better


def test_not_reached_when_too_little_is_undone_or_nothing_is_forgotten() -> None:
    assert dial_check.reached({"blends": [BASE, _mark(0.7, likeness=1.0, undone=0.49), WHOLE]}) is None
    assert dial_check.reached({"blends": [BASE, _mark(0.7, likeness=1.0, undone=None), WHOLE]}) is None


def test_base_itself_never_counts() -> None:
    assert dial_check.reached({"blends": [_mark(0, likeness=1.0, undone=1.0), WHOLE]}) is None


def test_table_has_a_line_for_each_blend_and_dashes_for_what_is_unknown() -> None:
    lines = dial_check.table([{"voice": "ada", "blends": [BASE, WHOLE]}]).splitlines()
    assert lines[2] == "| ada | 0 | 0.56 | 70% | - | 0.560 | 100% |"
    assert len(lines) == 4
