"""`train.kernels` and `train.fp8`: whether this machine can, and having a task's net compute so."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import torch

from ttstrain.contract.task import FusesKernels, HasBlocks, Task
from ttstrain.errors import RecipeError
from ttstrain.modules.fp8 import learn_in_fp8
from ttstrain.recipe.schema import TrainConfig

FP8_CAPABILITY = (8, 9)  # Ada; `torch._scaled_mm` refuses what is older


def check_machine(train: TrainConfig, device: torch.device) -> None:
    """Refuse what this device or its packages cannot do, before anything is loaded. Raises RecipeError."""
    if train.kernels == "liger":
        _check_gpu("train.kernels=liger", device, leave="train.kernels=torch")
        _check_packages("train.kernels=liger", ("liger_kernel", "triton"), install="ttstrain[liger]' (on Linux)")
    if train.fp8:
        _check_gpu("train.fp8", device, leave="train.fp8=false")
        _check_packages("train.fp8", ("torchao",), install="ttstrain[fp8]'")
        _check_capability(device)


def make_faster(task: Task, train: TrainConfig) -> None:
    """Have a task's net computed by the kernels and in the numbers that the recipe asks for, in place."""
    if train.kernels == "liger":
        assert isinstance(task, FusesKernels)
        task.fuse_kernels()
    if train.fp8:
        assert isinstance(task, HasBlocks)
        learn_in_fp8(task.repeated_blocks())


def _check_gpu(key: str, device: torch.device, *, leave: str) -> None:
    if device.type != "cuda":
        raise RecipeError(f"`{key}` needs a GPU, and the run is on `{device.type}`", hint=f"set `{leave}`")


def _check_packages(key: str, modules: Sequence[str], *, install: str) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise RecipeError(f"`{key}` needs the package `{module}`", hint=f"pip install '{install}")


def _check_capability(device: torch.device) -> None:
    found = torch.cuda.get_device_capability(device)
    if found < FP8_CAPABILITY:
        name = torch.cuda.get_device_name(device)
        raise RecipeError(
            f"`train.fp8` needs a GPU of compute capability 8.9 or more, and {name} has {found[0]}.{found[1]}",
            hint="set `train.fp8=false`",
        )
