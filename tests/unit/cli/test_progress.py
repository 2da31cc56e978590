"""The progress of long work: without a terminal, a line from time to time."""

from __future__ import annotations

import pytest

from ttstrain.cli import progress
from ttstrain.cli.progress import show_progress


def test_a_log_gets_a_line_every_15_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with show_progress("computing features") as tell:
        for done in range(1, 41):
            now += 1.0
            tell(done * 100, 4000)
    said = capsys.readouterr()
    assert said.err.splitlines() == ["computing features: 1,500 of 4,000", "computing features: 3,000 of 4,000"]
    assert said.out == ""


def test_short_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress("checking recordings") as tell:
        tell(1, 1)
    assert capsys.readouterr().err == ""
