"""`train.kernels` and `train.fp8` on machines that cannot: refused before anything is loaded, with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_orpheus import write_all
from small_runs import ttstrain

from ttstrain.errors import RecipeError
from ttstrain.recipe.schema import TrainConfig
from ttstrain.train import faster
from ttstrain.train.faster import check_machine

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
LIGER, FP8 = TrainConfig(kernels="liger"), TrainConfig(fp8=True)


@pytest.fixture
def has_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faster.importlib.util, "find_spec", lambda name: object())


@pytest.mark.parametrize("train", [LIGER, FP8])
def test_a_cpu_is_refused(has_all: None, train: TrainConfig) -> None:
    with pytest.raises(RecipeError, match="needs a GPU, and the run is on `cpu`") as caught:
        check_machine(train, CPU)
    assert caught.value.hint in ("set `train.kernels=torch`", "set `train.fp8=false`")
    check_machine(TrainConfig(), CPU)


@pytest.mark.parametrize(
    ("train", "package", "extra"),
    [(LIGER, "liger_kernel", "liger"), (LIGER, "triton", "liger"), (FP8, "torchao", "fp8")],
)
def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, train: TrainConfig, package: str, extra: str
) -> None:
    monkeypatch.setattr(faster.importlib.util, "find_spec", lambda name: None if name == package else object())
    with pytest.raises(RecipeError, match=f"needs the package `{package}`") as caught:
        check_machine(train, GPU)
    assert f"ttstrain[{extra}]" in (caught.value.hint or "")


@pytest.mark.parametrize(("capability", "fits"), [((8, 0), False), ((8, 6), False), ((8, 9), True), ((9, 0), True)])
def test_a_gpu_without_fp8_is_refused(
    monkeypatch: pytest.MonkeyPatch, has_all: None, capability: tuple[int, int], fits: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    if fits:
        check_machine(FP8, GPU)
        return
    with pytest.raises(RecipeError, match=r"8\.9 or more, and NVIDIA A100 has 8\.[06]"):
        check_machine(FP8, GPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU would be used")
@pytest.mark.parametrize("asked", ["train.kernels=liger", "train.fp8=true"])
def test_a_run_that_finds_no_gpu_ends_with_exit_code_2_and_nothing_left(tmp_path: Path, asked: str) -> None:
    recipe = write_all(tmp_path / "made")
    done = ttstrain("finetune", recipe, "--run-dir", tmp_path / "run", "train.device=auto", "train.precision=auto",
                    "model={hidden_size: 64, intermediate_size: 96, head_dim: 16}", asked)  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "error:" in done.stderr and "needs a GPU, and the run is on `cpu`" in done.stderr and "hint:" in done.stderr
    assert not (tmp_path / "run").exists()
