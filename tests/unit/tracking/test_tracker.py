"""A tracker watches a run: whatever it dies of, the run goes on and is told once."""

from __future__ import annotations

import errno
import io
import math
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from ttstrain.errors import RecipeError
from ttstrain.tracking.console import ConsoleTracker
from ttstrain.tracking.jsonl import JsonlTracker
from ttstrain.tracking.tracker import RunInfo, Spoken, SpokenBy, Tracker, Trackers


def info(run_dir: Path) -> RunInfo:
    return RunInfo(
        name="test",
        run_dir=run_dir,
        run_id="test",
        resumed=False,
        recipe={},
        plan_summary=(),
        total_steps=10,
        start_step=0,
        steps_per_epoch=5.0,
    )


class Recorder:
    """Keeps what it is told, and raises `error` whenever it is set."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.heard: list[str] = []

    def _hear(self, what: str) -> None:
        self.heard.append(what)
        if self.error is not None:
            raise self.error

    def start(self, info: RunInfo) -> None:
        self._hear("start")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._hear(f"log {step}")

    def sample(self, step: int, name: str, text: str, spoken: Mapping[SpokenBy, Spoken]) -> None:
        self._hear("sample")

    def checkpoint(self, step: int, folder: Path, *, best: bool) -> None:
        self._hear(f"checkpoint {step} {best}")

    def incident(self, step: int, kind: str, message: str) -> None:
        self._hear("incident")

    def note(self, message: str) -> None:
        self._hear(message)

    def warn(self, message: str, *, shown: bool = False) -> None:
        self._hear(f"WARNING {message}")

    def finish(self, status: str) -> None:
        self._hear(f"finish {status}")


def speak_to_all(trackers: Trackers, run_dir: Path) -> None:
    trackers.start(info(run_dir))
    for step in (1, 2):
        trackers.log(step, {"train/loss/model": 1.0})
    trackers.sample(2, "a", "Hello.", {})
    trackers.checkpoint(2, run_dir / "checkpoints" / "step-00000002", best=True)
    trackers.incident(2, "skip", "nan")
    trackers.note("a note")
    trackers.finish("done")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyError("total"), TypeError("x")])
def test_a_tracker_that_fails_is_told_once_and_called_again(tmp_path: Path, error: Exception) -> None:
    broken, well = Recorder(), Recorder()
    trackers = Trackers([broken, well])
    broken.error = None
    trackers.start(info(tmp_path))
    broken.error = error
    trackers.log(1, {})
    trackers.log(2, {})
    broken.error = None
    trackers.log(3, {})
    trackers.finish("done")
    assert [line for line in broken.heard if line.startswith("log")] == ["log 1", "log 2", "log 3"]
    (told,) = [line for line in well.heard if line.startswith("WARNING")]
    assert "Recorder failed" in told
    assert [line for line in well.heard if line.startswith("log")] == ["log 1", "log 2", "log 3"]
    assert well.heard[-1] == "finish done"


def test_a_tracker_that_cannot_start_is_left_out_with_a_warning(tmp_path: Path) -> None:
    broken, well = Recorder(ValueError("bad")), Recorder()
    speak_to_all(Trackers([broken, well]), tmp_path)
    assert broken.heard == ["start"]
    assert any("off for this run" in line and "bad" in line for line in well.heard)
    assert "log 2" in well.heard


def test_what_the_user_can_mend_is_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(RecipeError):
        Trackers([Recorder(RecipeError("no such project"))]).start(info(tmp_path))


def test_interrupts_pass(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        Trackers([Recorder(KeyboardInterrupt())]).log(1, {})


def test_a_metrics_file_that_cannot_be_opened_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(RecipeError, match=r"metrics\.jsonl` cannot be written"):
        JsonlTracker(warn=print).start(info(tmp_path / "run"))


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EPIPE])
def test_a_console_that_is_gone_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(error, "gone")

        def flush(self) -> None:
            raise OSError(error, "gone")

    console = ConsoleTracker()
    monkeypatch.setattr(sys, "stderr", Gone())
    console.start(info(tmp_path))  # by itself: rich would leave the program on a broken pipe
    console.log(1, {"train/loss/model": 1.0})
    console.finish("done")


def test_an_evaluation_that_is_nan_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    console = ConsoleTracker()
    console.start(info(tmp_path))
    console.log(1, {"eval/loss/total": math.nan, "eval/ema_loss/total": math.nan})
    console.finish("done")
    assert "eval loss nan" in capsys.readouterr().err


class OnlyCounts(Tracker):
    """A tracker that has a use for numbers alone."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.steps.append(step)


def test_a_tracker_leaves_out_what_it_has_no_use_for(tmp_path: Path) -> None:
    counts, other = OnlyCounts(), Recorder()
    speak_to_all(Trackers([counts, other]), tmp_path)
    assert counts.steps == [1, 2]
    assert not [what for what in other.heard if what.startswith("WARNING")]  # nothing failed
