"""The table of small GPUs in the guide is what its script prints."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


def test_the_guide_shows_what_the_plan_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPO / "scripts"))
    import small_cards_table

    shown = (REPO / "docs" / "small_cards.md").read_text(encoding="utf-8").splitlines()
    for line in small_cards_table.table():
        assert line.strip() in shown
    sys.modules.pop("small_cards_table")
