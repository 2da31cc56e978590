"""`ttstrain plan --trial`: it measures a run, leaves nothing behind, and the run says how well it was forecast."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from small_runs import ttstrain, write_clips, write_recipe

from ttstrain.forecast.costs import of_json

SMALL = ("sample={every: 8, count: 1}", "judge.sentences=2", "tracking.wandb=off")


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Try a recipe in an empty folder."""
    root = tmp_path_factory.mktemp("trial")
    (root / "here").mkdir()
    write_recipe(root / "r.yaml", data=write_clips(root / "speech", count=6))
    done = ttstrain(
        *("plan", root / "r.yaml", *SMALL, "--trial", "--json"), cwd=root / "here", TTSTRAIN_CACHE=str(root / "cache")
    )
    assert done.returncode == 0, done.stderr
    return root, done


def test_a_trial_forecasts_and_leaves_nothing_in_the_folder(
    tried: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    root, done = tried
    said = json.loads(done.stdout)["forecast"]
    assert list((root / "here").iterdir()) == []
    assert said["source"].startswith("trial of ")
    assert 0 < said["taken"]["first_step_s"] < said["taken"]["total_s"]
    assert said["taken"]["memory"] > 50e6  # torch alone takes more
    assert said["parts"]["steps"] > 0 and said["parts"]["samples and judge"] > 0
    kept = list((root / "cache" / "costs").iterdir())
    assert [path.name.rpartition("-")[2] for path in kept] == ["trial.json"]
    costs = of_json(json.loads(kept[0].read_text()))
    assert costs.steps >= 10
    assert costs.sizes.checkpoint > 0 and costs.sizes.samples > 0 and costs.sizes.cache > 0


def test_the_run_after_a_trial_compares_itself_with_it(
    tried: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    root, planned = tried
    done = ttstrain(
        *("finetune", root / "r.yaml", *SMALL, "--run-dir", root / "runs", "name=kept"),
        TTSTRAIN_CACHE=str(root / "cache"),
    )
    assert done.returncode == 0, done.stderr
    screen = " ".join(done.stderr.split())
    assert "forecast from the trial of" in screen  # before the first step
    assert "to the end, took 0:" in screen  # after the last
    written = json.loads((root / "runs" / "kept" / "forecast.json").read_text())
    said = json.loads(planned.stdout)["forecast"]
    assert written["ending"] == "done"
    assert {**written["forecast"], "taken": None} == {**said, "taken": None}
    took = written["took"]
    assert 0 < took["first_step_s"] < took["total_s"]
    # The machine's load moves the time and not what is on the disk, but for the page that shows the curves.
    assert took["disk"] == pytest.approx(said["taken"]["disk"], rel=0.3)
    assert took["memory"] == pytest.approx(said["taken"]["memory"], rel=0.3)

    again = ttstrain(
        "plan",
        root / "r.yaml",
        *SMALL,
        "train.steps=80",
        "--run-dir",
        root / "runs",
        TTSTRAIN_CACHE=str(root / "cache"),
    )
    assert "last run on this machine, kept" in " ".join(again.stdout.split())


def test_a_trial_is_made_by_one_process(tried: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    refused = ttstrain("plan", tried[0] / "r.yaml", "--trial", "--nproc", "2")
    assert refused.returncode == 2
    assert "error: a trial is made by one process" in refused.stderr and "hint:" in refused.stderr
    unknown = ttstrain("plan", tried[0] / "r.yaml", "data.path=null", "--trial")
    assert unknown.returncode == 2 and "`data.path` is not set" in unknown.stderr
