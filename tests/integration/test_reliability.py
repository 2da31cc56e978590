"""The short form of every part of scripts/reliability.py: what is broken on purpose is survived."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "scripts"))
from reliability import page  # noqa: E402
from reliability.frame import Limits, Part, Row, Tally, count, find_parts  # noqa: E402
from reliability.parts import kills  # noqa: E402

from ttstrain.data import atomic  # noqa: E402

PARTS = find_parts()


@pytest.mark.parametrize("name", PARTS)
def test_what_a_part_breaks_is_survived(name: str) -> None:
    rows = count(PARTS[name], form="short")
    assert any(row.tried for row in rows)
    assert [failure for row in rows for failure in row.failures] == []
    assert [row.fault for row in rows if row.survived != row.tried] == []


def test_the_page_shows_the_latest_result_of_every_part() -> None:
    results = page.read_results()
    assert results.keys() <= PARTS.keys()
    assert page.PAGE.read_text(encoding="utf-8") == page.page(PARTS, results)


def test_a_try_that_does_not_survive_is_counted_and_shown() -> None:
    tally = Tally("rain", "stays dry")
    tally.add(None)
    tally.add("wet at noon")
    assert tally.row == Row("rain", "stays dry", 2, 1, ("wet at noon",))
    part = Part("Weather", "A try is a day.", lambda limits: [tally.row], minutes=1)
    result = page.make_result(count(part, form="full"), minutes=0.26, seed=3)
    shown = page.page({"weather": part}, {"weather": result})
    assert "| rain | stays dry | 2 | 1 |" in shown
    assert "- rain: wet at noon" in shown
    assert "in 0.3 minutes, seed 3." in shown


def test_limits_end_when_their_minutes_are_over(tmp_path: Path) -> None:
    assert Limits("full", minutes=0, seed=0, scratch=tmp_path, started=-1.0).over
    assert not Limits("full", minutes=60, seed=0, scratch=tmp_path).over


def test_an_export_that_is_being_written_is_seen(tmp_path: Path) -> None:
    half = atomic.temporary_beside(tmp_path / "export-1")
    half.mkdir()
    (tmp_path / "export-1").mkdir()
    atomic.temporary_beside(tmp_path / "export-10").mkdir()
    assert kills.half_exported(tmp_path / "export-1") == [half.name]
