"""scripts/compare_runs.py: equal runs are called equal, and the first difference is named."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "compare_runs.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compare_runs", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Two equal runs, as `--make` leaves them."""
    run = tmp_path / "a" / "smoke-flow" / "flow-1"
    checkpoint = run / "checkpoints" / "step-00000002"
    checkpoint.mkdir(parents=True)
    (run / "checkpoints" / "last").write_text("step-00000002\n")
    rows = [{"step": step, "train/loss/total": 1 / step, "time/step_s": 0.1} for step in (1, 2)]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    save_file({"w": torch.tensor([0.0, 1.0]), "v": torch.tensor([3])}, checkpoint / "weights.safetensors")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    return run, tmp_path / "b" / "smoke-flow" / "flow-1"


def test_equal_runs_are_equal_whatever_time_they_took(script: ModuleType, runs: tuple[Path, Path]) -> None:
    metrics = runs[1] / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"time/step_s": 0.1', '"time/step_s": 0.2'))
    assert script.difference(*runs) is None


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [("0.5", "0.50001", "line 2: train/loss/total is 0.5"), ("0.5", "NaN", "line 2"), ('"step": 2, ', "", "only one")],
)
def test_a_row_that_differs_is_named(
    script: ModuleType, runs: tuple[Path, Path], before: str, after: str, said: str
) -> None:
    metrics = runs[1] / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace(before, after))
    assert said in script.difference(*runs)


def test_a_single_bit_of_a_tensor_is_a_difference(script: ModuleType, runs: tuple[Path, Path]) -> None:
    file = runs[1] / "checkpoints" / "step-00000002" / "weights.safetensors"
    save_file({**load_file(file), "w": torch.tensor([-0.0, 1.0])}, file)
    assert script.difference(*runs) == "step-00000002/weights.safetensors: w differs"


def test_a_run_that_one_side_lacks_is_a_difference(script: ModuleType, runs: tuple[Path, Path]) -> None:
    shutil.rmtree(runs[1])
    ((name, a, b),) = script.matched(runs[0].parents[1], runs[1].parents[1])
    assert name == "smoke-flow"
    assert "is not a run" in script.difference(a, b)
