"""What the data room warns of while a run is built or trained reaches every tracker of the run, once each."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from speech_toys import ToyData, write_clips

from ttstrain import terminal
from ttstrain.contract.data import Clip
from ttstrain.data import pool
from ttstrain.data.cache import FeatureCache
from ttstrain.data.loader import Loader
from ttstrain.recipe.schema import TrackingConfig
from ttstrain.tracking import wandb
from ttstrain.tracking.build import build_trackers
from ttstrain.tracking.tracker import RunInfo, Trackers
from ttstrain.tracking.wandb import WandbTracker
from ttstrain.warning_listener import Listener


class Watched:
    """The trackers of a run, and what each of them was told of warnings."""

    def __init__(self, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run_dir = run_dir
        self.screen = io.StringIO()
        self.rows: list[dict[str, Any]] = []
        run = SimpleNamespace(log=lambda row, **_: self.rows.append(dict(row)), summary={}, finish=lambda **_: None)
        monkeypatch.setattr(WandbTracker, "_open_as_wanted", lambda tracker: setattr(tracker, "_run", run))
        monkeypatch.setattr(wandb, "_stop_service", lambda: None)
        console = Console(file=self.screen, width=200)
        self.trackers: Trackers = build_trackers(TrackingConfig(wandb="offline"), origins={}, console=console)

    def start(self) -> None:
        self.run_dir.mkdir()
        self.trackers.start(RunInfo("a", self.run_dir, "a", False, {}, (), 10, 0, 5.0))

    @property
    def shown(self) -> list[str]:
        return [line for line in self.screen.getvalue().splitlines() if "WARNING" in line]

    @property
    def written(self) -> list[dict[str, Any]]:
        path = self.run_dir / "warnings.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def uploaded(self) -> list[dict[str, Any]]:
        return [row for row in self.rows if "warning" in row]


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(pool, "PATIENCE_S", 60.0)  # of a busy machine
    watched = Watched(tmp_path / "run", monkeypatch)
    yield watched
    watched.trackers.finish("done")


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    return write_clips(tmp_path / "wavs", [0.5, 0.6, 0.7, 0.8])


def make_loader(folder: Path, clips: Sequence[Clip], *, workers: int = 0) -> Loader:
    cache = FeatureCache(folder, ToyData(), place="disk")
    cache.build(clips)
    cache.path(clips[2]).write_bytes(b"")  # the only one that is damaged
    return Loader(cache, clips, ToyData(), batch_frames=100, max_clips=8, seed=0, workers=workers)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_warning_of_the_loader_during_training_reaches_each_tracker_once(
    watched: Watched, clips: list[Clip], tmp_path: Path, workers: int, capfd: pytest.CaptureFixture[str]
) -> None:
    loader = make_loader(tmp_path / "cache", clips, workers=workers)
    watched.start()
    watched.trackers.log(3, {"train/loss/model": 1.0})
    loader.next(8)
    loader.close()
    said = "features of clip clip02 are made again"
    assert [line for line in watched.shown if said in line] == watched.shown
    assert len(watched.shown) == len(watched.written) == len(watched.uploaded) == 1
    assert watched.written[0]["warning"] == watched.uploaded[0]["warning"]
    assert said in watched.written[0]["warning"]
    assert watched.written[0]["step"] == watched.uploaded[0]["step"] == 3
    assert said not in capfd.readouterr().err, "neither this process nor a worker prints it past the trackers"


def test_a_warning_from_before_the_start_is_shown_then_and_recorded_later(
    watched: Watched, clips: list[Clip], tmp_path: Path
) -> None:
    loader = make_loader(tmp_path / "cache", clips)
    fewer = make_loader(tmp_path / "fewer", clips[:3])
    fewer.load_state_dict(loader.state_dict())
    assert len(watched.shown) == 1
    assert "epoch 0 begins again" in watched.shown[0]
    assert watched.written == watched.uploaded == []
    watched.start()
    assert len(watched.shown) == len(watched.written) == len(watched.uploaded) == 1
    assert "epoch 0 begins again" in watched.written[0]["warning"]


def test_a_note_that_warns_is_a_warning_for_every_tracker(watched: Watched) -> None:
    watched.start()
    watched.trackers.note("WARNING: two of three")
    watched.trackers.note("a checkpoint went somewhere")
    assert [line.strip() for line in watched.shown] == ["WARNING: two of three"]
    assert [row["warning"] for row in watched.written] == ["two of three"]
    assert [row["warning"] for row in watched.uploaded] == ["two of three"]


def test_outside_a_run_a_warning_goes_to_stderr(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    watched.start()
    watched.trackers.finish("done")
    assert not [handler for handler in logging.getLogger("ttstrain").handlers if isinstance(handler, Listener)]
    monkeypatch.setattr(logging.getLogger("ttstrain"), "parent", None)  # without pytest's own handler
    with terminal.protected():
        logging.getLogger("ttstrain.data.cache").warning("one of three")
    assert capsys.readouterr().err == "WARNING: one of three\n"
    assert watched.shown == watched.written == watched.uploaded == []


def test_a_full_disk_is_told_once_and_ends_nothing(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    watched.start()
    (watched.run_dir / "warnings.jsonl").mkdir()  # cannot be written
    watched.trackers.warn("first")
    watched.trackers.warn("second")
    assert [line.split("WARNING: ")[1][:8] for line in watched.shown] == ["cannot w", "first", "second"]
    assert [row["warning"] for row in watched.uploaded][1:] == ["first", "second"]
