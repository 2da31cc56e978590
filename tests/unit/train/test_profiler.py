"""A profile of a few steps: what is added up, and that it changes nothing."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import small_runs
import torch
from torch._C._autograd import DeviceType

from ttstrain.errors import DivergedError
from ttstrain.train import profiler
from ttstrain.train.profiler import STEP, StepProfiler, summarize


@dataclass
class Event:
    name: str
    start: float
    end: float
    device_type: DeviceType = DeviceType.CPU
    cpu_parent: Any = None
    self_cpu_time_total: float = 0.0
    self_device_time_total: float = 0.0

    @property
    def time_range(self) -> SimpleNamespace:
        return SimpleNamespace(start=self.start, end=self.end)


def events() -> list[Event]:
    """Two steps of 10 microseconds with an evaluation between them."""
    backward = Event("autograd::engine::evaluate_function: MmBackward0", 4, 8, self_cpu_time_total=1)
    update = Event("Optimizer.step#AdamW.step", 8, 9, self_cpu_time_total=0.5)
    return [
        Event(STEP, 0, 10),
        Event("wait for data", 0, 1, self_cpu_time_total=1),
        Event("aten::mm", 1, 3, self_cpu_time_total=2),
        backward,
        Event("aten::mm", 5, 7, cpu_parent=backward, self_cpu_time_total=3),
        update,
        Event("aten::mul_", 8, 9, cpu_parent=update, self_cpu_time_total=0.5),
        Event("aten::mm", 11, 19, self_cpu_time_total=8),  # between the steps
        Event(STEP, 20, 30),
        Event("aten::native_layer_norm", 21, 24, self_cpu_time_total=3),
    ]


def test_time_is_added_up_by_phase_kind_and_operation_within_the_steps() -> None:
    found = summarize(events(), steps=2, wall=20e-6)
    assert not found.on_device
    assert found.phases == pytest.approx({"wait for data": 1e-6, "forward": 5e-6, "backward": 4e-6, "update": 1e-6})
    assert found.kinds["matrix products"] == pytest.approx(5e-6)
    assert found.kinds["normalisation"] == pytest.approx(3e-6)
    assert found.operations["aten::mm"] == pytest.approx(5e-6)
    said = found.lines(first=4)
    assert said[0] == "profile   steps 4 to 5: 1e-05 s a step, profiling included, by the processor"
    assert "           45.0 %  Python, and what torch does not record" in said
    assert all(len(line) <= 80 for line in said)


def test_on_a_gpu_its_own_time_counts() -> None:
    made = events()
    made[2].self_device_time_total = 6.0
    made += [  # as torch gives them: the kernel that the operation started, and ranges of the GPU's own
        Event("sm90_xmma_gemm", 2, 8, DeviceType.CUDA, self_device_time_total=6.0),
        Event("Optimizer.step#AdamW.step", 2, 8, DeviceType.CUDA, self_device_time_total=6.0),
        Event(STEP, 2, 19, DeviceType.CUDA, self_device_time_total=17.0),
    ]
    made[7].self_device_time_total = 8.0  # between the steps
    found = summarize(made, steps=2, wall=20e-6)
    assert found.on_device
    assert found.phases["forward"] == pytest.approx(6e-6)
    assert found.phases["backward"] == found.phases["update"] == 0.0
    assert found.measured == pytest.approx(6e-6)


def test_a_profiled_run_trains_as_another_and_leaves_a_trace_and_a_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(profiler, "FIRST", 1)
    recipe = small_runs.write_recipe(tmp_path / "r.yaml", data=small_runs.write_clips(tmp_path / "data"))
    plain = small_runs.finetune(recipe, tmp_path, "name=plain", "train.steps=4", "judge.enabled=false")
    capsys.readouterr()
    run = small_runs.finetune(recipe, tmp_path, "name=own", "train.steps=4", "judge.enabled=false", "debug.profile=2")
    assert small_runs.metrics(run) == small_runs.metrics(plain)
    summary = (run / "profile" / "summary.txt").read_text(encoding="utf-8")
    assert summary.startswith("profile   steps 2 to 3: ")
    assert {"forward", "backward", "update"} <= {line.partition("%")[2].strip() for line in summary.splitlines()}
    assert summary.splitlines()[0] in capsys.readouterr().err
    trace = json.loads(gzip.decompress((run / "profile" / "trace.json.gz").read_bytes()))
    assert sum(event.get("name") == STEP and event.get("ph") == "X" for event in trace["traceEvents"]) == 2


def test_a_run_that_ends_before_its_profile_does_writes_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiler, "FIRST", 1)
    recipe = small_runs.write_recipe(tmp_path / "r.yaml", data=small_runs.write_clips(tmp_path / "data"))
    run = small_runs.finetune(recipe, tmp_path, "name=own", "train.steps=3", "judge.enabled=false", "debug.profile=9")
    assert (run / "profile" / "summary.txt").read_text(encoding="utf-8").startswith("profile   steps 2 to 3: ")


def test_a_profile_that_cannot_be_written_ends_no_run(tmp_path: Path) -> None:
    said: list[str] = []
    gone = StepProfiler(1, folder=tmp_path / "gone", device=torch.device("cpu"), say=said.append)
    for step in range(1, profiler.FIRST + 2):
        with gone.on_step(step):
            torch.ones(2).sum()
    assert said[0].startswith("profile   step 4: ")
    assert said[-1].startswith("WARNING: the profile could not be written into")


def test_a_run_that_diverges_writes_its_profile_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiler, "FIRST", 1)
    recipe = small_runs.write_recipe(tmp_path / "r.yaml", data=small_runs.write_clips(tmp_path / "data"))
    faults = json.dumps([f"nan_loss@{step}" for step in range(3, 9)])
    more = (f"debug.inject={faults}", "guard={max_skips: 1, max_rollbacks: 0}", "judge.enabled=false")
    with pytest.raises(DivergedError):
        small_runs.finetune(recipe, tmp_path, "name=own", "debug.profile=9", *more)
    assert (tmp_path / "own" / "profile" / "summary.txt").is_file()
