"""Our sides of the benchmarks still run on the engine as it is now; their speed is measured by people."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"


def answers(script: str, *commands: dict[str, Any], tmp_path: Path) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, BENCH / script, "--size", "smoke", "--precision", "fp32", "--threads", "1"],
        input="".join(json.dumps(command) + "\n" for command in (*commands, {"do": "quit"})),
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_worker_of_the_step_benchmark_trains_and_says_what_it_took(tmp_path: Path) -> None:
    about, ran, peak = answers("ours.py", {"do": "run", "steps": 2}, tmp_path=tmp_path)
    assert about["parameters"] > 0
    assert ran["steps"] == 2
    assert ran["frames"] > 0
    assert peak["peak_rss_mb"] > 0


def test_the_language_models_loss_falls_on_what_its_worker_trains_on(tmp_path: Path) -> None:
    loss = {"do": "loss", "batch": 0}
    _, before, ran, after, _ = answers("lm_ours.py", loss, {"do": "run", "steps": 8}, loss, tmp_path=tmp_path)
    assert ran["steps"] == 8
    assert after["loss"] < before["loss"]


def test_the_heavy_products_of_steps_are_recorded_and_repeated(tmp_path: Path) -> None:
    run = {"do": "run", "steps": 2}
    alone = answers("ours.py", {"do": "record"}, run, {"do": "recorded"}, tmp_path=tmp_path)[3]["seconds"]
    assert alone.keys() == {"matrix products", "convolutions", "attention"}
    assert all(seconds > 0 for seconds in alone.values())


def test_a_profile_of_steps_says_what_the_rest_of_their_time_goes_to(tmp_path: Path) -> None:
    run = {"do": "run", "steps": 2}
    _, _, ran, spent, _ = answers("ours.py", {"do": "profile"}, run, {"do": "profiled"}, tmp_path=tmp_path)
    assert {"matrix products", "convolutions", "attention", "normalisation"} <= spent["kinds"].keys()
    assert 0 < sum(spent["kinds"].values()) <= 1.05 * ran["seconds"]
    assert 0 < len(spent["operations"]) <= 12


def test_a_recorded_product_is_repeated_as_it_lay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    products = importlib.import_module("products")
    signal, weight = torch.randn(1, 12, requires_grad=True), torch.randn(3, 5)
    with products.Recorder() as recorder:
        for _ in range(2):
            (signal.unfold(1, 5, 1)[0] @ weight.T).sum().backward()
    assert sorted(recorder.counts.values()) == [2, 2]  # forward, and back to the signal
    shown = [layout for _, args, _ in recorder.calls.values() for layout in args]
    assert products.Layout((8, 5), (1, 1), torch.float32) in shown
    assert [(one.fill().shape, one.fill().stride()) for one in shown] == [(one.shape, one.strides) for one in shown]
    assert recorder.seconds()["matrix products"] > 0


def test_processes_of_the_benchmark_of_ranks_train_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    two = importlib.import_module("ranks").Together(2, size="smoke", threads=1, accumulate=1, folder=tmp_path)
    assert two.sides[0].about["parameters"] == two.sides[1].about["parameters"] > 0
    assert two.ask("run", steps=2)["frames"] > 0
    assert two.leave() > 0
