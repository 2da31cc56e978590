"""A run's page is written while it trains, costs little, and never hurts the run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import run_folders

from ttstrain.report import tracker
from ttstrain.report.tracker import ReportTracker
from ttstrain.tracking.tracker import RunInfo


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.5  # so that a page takes half a second
        return self.now


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return run_folders.write_run(tmp_path / "made")


def started(run: Path, notes: list[str], clock: Clock | None = None) -> ReportTracker:
    found = ReportTracker(note=notes.append, clock=clock or Clock())
    found.start(
        RunInfo(
            "made",
            run,
            "id",
            resumed=False,
            recipe={},
            plan_summary=(),
            total_steps=60,
            start_step=0,
            steps_per_epoch=1,
        )
    )
    return found


def test_a_page_follows_an_evaluation_and_no_training_step(run: Path) -> None:
    watched = started(run, notes := [])
    watched.log(1, {"train/loss/total": 1.0})
    assert not (run / "report.html").exists()
    watched.log(2, {"eval/loss/total": 1.0})
    assert '"status":"running"' in (run / "report.html").read_text(encoding="utf-8")
    watched.finish("early stop")
    assert '"status":"early stop"' in (run / "report.html").read_text(encoding="utf-8")
    assert notes == []


def test_pages_take_at_most_their_share_of_the_time(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[float] = []
    clock = Clock()
    monkeypatch.setattr(tracker, "write_page", lambda *_: written.append(clock.now))
    watched = started(run, [], clock)
    for step in range(1000):
        watched.log(step, {"eval/loss/total": 1.0})
    assert len(written) > 5
    assert 0.5 * (len(written) - 1) <= tracker.SHARE * clock.now
    before = len(written)
    watched.finish("done")
    assert len(written) == before + 1  # the last page is always written


def test_an_error_is_noted_once_and_nothing_else(run: Path) -> None:
    watched = started(run, notes := [])
    (run / "report.html").mkdir()
    clock = watched._clock
    assert isinstance(clock, Clock)
    for step in range(3):
        clock.now += 1e6
        watched.log(step, {"eval/loss/total": 1.0})
    watched.finish("done")
    assert len(notes) == 1
    assert notes[0].startswith("report.html is not written: ")


def test_a_folder_that_was_removed_is_not_made_again(run: Path) -> None:
    watched = started(run, notes := [])
    shutil.rmtree(run)
    watched.finish("failed")
    assert not run.exists()
    assert notes == []


def test_a_run_without_a_description_goes_on_without_a_page(tmp_path: Path) -> None:
    watched = started(tmp_path, notes := [])
    watched.log(1, {"eval/loss/total": 1.0})
    watched.finish("done")
    assert len(notes) == 1
    assert not list(tmp_path.iterdir())
