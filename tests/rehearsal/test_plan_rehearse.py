"""`ttstrain plan --rehearse`: the memory of the user's recipe on a GPU, for people and for scripts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pretended_cuda import needs_cuda_build
from typer.testing import CliRunner

from ttstrain.cli.main import app

BF16 = "train.precision=auto"  # which is bf16 on a GPU that has it
PROGRAM = Path(sys.executable).with_name("ttstrain")


def plan(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, "plan", *arguments], check=False, capture_output=True, text=True)


@needs_cuda_build
def test_what_a_step_takes_is_counted_without_a_gpu() -> None:
    shown = plan("smoke/flow", BF16, "data.batch_frames=2000", "--rehearse", "--json")
    assert shown.returncode == 0, shown.stderr
    found = json.loads(shown.stdout)
    rehearsed = found["rehearsal"]
    assert rehearsed["precision"] == "bf16"
    assert rehearsed["weights"] == pytest.approx(4 * found["num_parameters"], rel=0.01)
    assert rehearsed["state"] == pytest.approx(4 * rehearsed["weights"], rel=0.05)  # two moments and EMA weights
    assert 0.8 * 2000 < rehearsed["frames"] <= 2000
    assert rehearsed["peak"] > rehearsed["state"]
    shorter = json.loads(plan("smoke/flow", BF16, "data.batch_frames=1000", "--rehearse", "--json").stdout)["rehearsal"]
    assert shorter["state"] == rehearsed["state"]
    assert shorter["peak"] < rehearsed["peak"]


@needs_cuda_build
def test_a_rehearsal_is_shown_below_the_formula() -> None:
    shown = plan("smoke/flow", BF16, "--rehearse")
    assert shown.returncode == 0, shown.stderr
    (line,) = [line for line in shown.stdout.splitlines() if line.startswith("rehearsed")]
    assert "on a GPU in bf16" in line
    assert "than by formula" in line
    assert max(map(len, shown.stdout.splitlines())) <= 80


@pytest.mark.parametrize("flag", [["--trial"], ["--fit", "12GB"]])
def test_a_rehearsal_is_refused_beside_a_trial(flag: list[str]) -> None:
    shown = CliRunner().invoke(app, ["plan", "smoke/flow", "--rehearse", *flag])
    assert shown.exit_code == 2


def test_a_resolved_recipe_holds_no_rehearsal() -> None:
    assert CliRunner().invoke(app, ["plan", "smoke/flow", "--rehearse", "--yaml"]).exit_code == 2
