"""A run of a recipe that ships says where its first steps lie beside the reference runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_runs import metrics, write_clips

from ttstrain.bands.outcome import read_outcome
from ttstrain.recipe.compose import compose
from ttstrain.runs.new import start
from ttstrain.runs.resume import resume

QUIET = ("sample.every=null", "tracking.wandb=off", "checkpoint.every=4")


def run_of(folder: Path, *overrides: str) -> Path:
    return start(compose("smoke/flow", [*QUIET, f"run_dir={folder}", *overrides]))


def warnings(run: Path) -> list[str]:
    file = run / "warnings.jsonl"
    return [json.loads(line)["warning"] for line in file.read_text().splitlines()] if file.is_file() else []


def test_another_seed_is_inside_and_a_resume_says_nothing_more(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = run_of(tmp_path, "train.seed=33")
    outcome = read_outcome(run)
    assert outcome is not None
    assert (outcome.place, outcome.step, outcome.why_not) == ("inside", 10, "")
    assert "inside the band: up to step 10" in capfd.readouterr().err.replace("\n", " ")
    (row,) = [row for row in metrics(run) if "band/verdict" in row]
    assert row["band/verdict"] == 0.0
    assert abs(row["band/train/loss/model"]) < 1
    assert warnings(run) == []
    assert "Inside the band" in (run / "report.html").read_text(encoding="utf-8")
    resume(run, ["train.steps=14"])
    assert read_outcome(run) == outcome
    assert len([row for row in metrics(run) if "band/verdict" in row]) == 1


def test_a_tenfold_lr_and_frozen_blocks_are_named(tmp_path: Path) -> None:
    frozen = (
        "optim.groups=[{name: rest, match: ['*transformer_blocks*', '*text_embed*', '*input_embed*'], frozen: true}]"
    )
    run = run_of(tmp_path, "optim.lr=2e-2", frozen)
    (warning,) = [line for line in warnings(run) if "the band" in line]
    assert "Likely cause: the LR of `model/default` is 20 times" in warning
    assert "parameters are frozen" in warning
    outcome = read_outcome(run)
    assert outcome is not None
    assert outcome.place in ("above", "below")


def test_a_run_on_other_data_says_that_it_is_not_compared(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = write_clips(tmp_path / "speech")
    run = run_of(tmp_path, f"data.path={data}", "train.steps=2")
    outcome = read_outcome(run)
    assert outcome is not None
    assert outcome.why_not == "it trains on other data (8 clips instead of 96)"
    said = capfd.readouterr().err.replace("\n", " ")
    assert "not compared with the reference runs of `smoke-flow`: it trains on other data" in " ".join(said.split())
    assert not any("band/verdict" in row for row in metrics(run))
