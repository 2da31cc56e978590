"""trackio gets what a run records, on this machine only. Skipped where the package is missing."""

from __future__ import annotations

import importlib.util
import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from ttstrain.errors import RecipeError
from ttstrain.recipe.schema import TrackingConfig
from ttstrain.tracking.build import build_trackers

SCRIPT = """
import socket, sys
from pathlib import Path

def refuse(*args, **kwargs):
    raise OSError("the network was asked for")

socket.socket.connect = socket.getaddrinfo = refuse
import soundfile, torch
from ttstrain.tracking import spectrogram
from ttstrain.tracking.tracker import Former, RunInfo, Spoken
from ttstrain.tracking.trackio import TrackioTracker

folder = Path(sys.argv[1])
soundfile.write(folder / "a.wav", torch.zeros(2400).numpy(), 24000, subtype="PCM_16")
spectrogram.write(folder / "a.png", torch.zeros(20, 100))
for start in (0, 3):
    tracker = TrackioTracker(project="voices", note=lambda _: None)
    former = Former("old", "run-0b1c", 400)
    tracker.start(RunInfo("a run", folder, "run-7f3a", start > 0, {"task": "t"}, (), 6, start, 1.0, former))
    for step in range(start + 1, start + 4):
        tracker.log(step, {"train/loss/total": 1 / step, "guard/skipped": 0})
    tracker.sample(start + 3, "a", "Hello.", {"ema": Spoken(folder / "a.wav", 0.1)})
    tracker.incident(start + 3, "give up", "three rollbacks")
    tracker.finish("done")
"""


@pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="trackio is not installed: an extra")
def test_a_run_and_its_resume_are_one_run_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=True, timeout=100
    )
    assert (result.stdout, result.stderr) == ("", "")
    (file,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(file) as database:
        rows = [(step, json.loads(row)) for step, row in database.execute("select step, metrics from metrics")]
        runs = {name for (name,) in database.execute("select run_name from metrics")}
        alerts = list(database.execute("select title, text, level from alerts"))
        (config,) = [json.loads(config) for (config,) in database.execute("select config from configs")]
    losses = {step: row["train/loss/total"] for step, row in rows if "train/loss/total" in row}
    assert losses == pytest.approx({step: 1 / step for step in range(1, 7)})
    assert runs == {"a run (7f3a)"}
    sounds = [(step, row["sample/audio/a.ema"]) for step, row in rows if "sample/audio/a.ema" in row]
    assert [step for step, _ in sounds] == [3, 6]
    stored = tmp_path / "trackio" / "media" / sounds[0][1]["file_path"]
    assert stored.read_bytes() == (tmp_path / "a.wav").read_bytes()
    assert alerts[0] == ("ttstrain: give up", "Step 3: three rollbacks", "error")
    assert (config["task"], config["continues_from"]) == ("t", "old")


def test_trackio_is_asked_for_and_refused_by_name_when_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"`tracking\.trackio` needs") as error:
        build_trackers(TrackingConfig(wandb="off", trackio=True))
    assert error.value.hint == "pip install 'ttstrain[trackio]'"
