"""How much of a device a run uses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_runs import finetune, write_clips, write_recipe

from ttstrain.tracking import jsonl
from ttstrain.train.peak import peak_flops, peak_of

PEAK = 1e9


@pytest.mark.parametrize(
    ("name", "half"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5e12),
        ("NVIDIA H100 PCIe", 756.5e12),
        ("NVIDIA H200", 989.5e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("Tesla T4", 65e12),
    ],
)
def test_a_device_is_known_by_the_name_cuda_gives_it(name: str, half: float) -> None:
    assert peak_of(name, "bf16") == half
    assert peak_of(name, "fp16") == half
    single = peak_of(name, "fp32")
    assert single is not None
    assert single < half


def test_what_no_table_holds_is_not_guessed() -> None:
    assert peak_of("NVIDIA GeForce GT 1030", "bf16") is None
    assert peak_flops(torch.device("cpu"), "fp32", True) is None


def test_the_table_knows_fp32_in_tf32_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    gpu = torch.device("cuda", 0)
    assert peak_flops(gpu, "fp32", True) == peak_of("NVIDIA H200", "fp32")
    assert peak_flops(gpu, "fp32", False) is None
    assert peak_flops(gpu, "bf16", False) == peak_of("NVIDIA H200", "bf16")


def test_the_logged_share_is_the_steps_operations_over_its_time_and_the_peak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ttstrain.train.step_log.peak_flops", lambda *_: PEAK)
    monkeypatch.setattr("ttstrain.families.flow.task.FlowTask.flops", lambda _, batch: 1e6 * batch.num_frames)
    recipe = write_recipe(tmp_path / "r.yaml", data=write_clips(tmp_path / "speech"))
    run = finetune(recipe, tmp_path / "runs", "train.steps=3", "eval.every=null")
    for row in jsonl.read(run / jsonl.FILE_NAME):
        assert row["perf/mfu"] == pytest.approx(1e6 * row["perf/frames_per_s"] / PEAK)


def test_a_device_whose_peak_is_unknown_has_no_share(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", data=write_clips(tmp_path / "speech"))
    run = finetune(recipe, tmp_path / "runs", "train.steps=3", "eval.every=null")
    assert all("perf/mfu" not in row for row in jsonl.read(run / jsonl.FILE_NAME))
