"""Liger's kernels and products in FP8 on a real GPU: near what torch computes in bf16."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from small_orpheus import CONFIG
from torch import Tensor

from ttstrain.errors import RecipeError
from ttstrain.families.orpheus.rows import pack, speech_row
from ttstrain.families.orpheus.task import OrpheusTask
from ttstrain.modules.fp8 import learn_in_fp8
from ttstrain.recipe.schema import TrainConfig
from ttstrain.train.faster import check_machine

pytestmark = pytest.mark.gpu

GPU = torch.device("cuda", 0)
SIZES = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32}
BF16, FP8 = 0.05, 0.2  # of a gradient's norm: what rounding to 8 and to 4 bits moves in some products in a row


def learn(dtype: str, change: Callable[[OrpheusTask], None], *, autocast: bool) -> dict[str, Tensor]:
    torch.manual_seed(0)
    task = OrpheusTask(CONFIG.model_copy(update={**SIZES, "param_dtype": dtype}))
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    task.to(GPU)
    names = list(task.state_dict())
    change(task)
    assert list(task.state_dict()) == names
    codes = torch.randint(4096, (9, 7), generator=torch.Generator().manual_seed(1))
    batch = pack([speech_row("a", [1, 2], codes, CONFIG.ids), speech_row("b", [3], codes[:4], CONFIG.ids)]).to(GPU)
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        (loss,) = task.losses(batch)
    loss.value.backward()
    gradients = {name: own.grad.float() for name, own in task.named_parameters() if own.grad is not None}
    return {"loss": loss.value.detach().float(), **gradients}


def farthest(found: dict[str, Tensor], plain: dict[str, Tensor]) -> float:
    assert found.keys() == plain.keys()
    return max(float((found[name] - plain[name]).norm() / plain[name].norm()) for name in plain)


def as_it_is(task: OrpheusTask) -> None:
    pass


def in_fp8(task: OrpheusTask) -> None:
    learn_in_fp8(task.repeated_blocks())


def available(train: TrainConfig) -> None:
    try:
        check_machine(train, GPU)
    except RecipeError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(("dtype", "autocast"), [("fp32", True), ("bf16", True), ("bf16", False)])
def test_fused_kernels_learn_what_torch_learns(dtype: str, autocast: bool) -> None:
    available(TrainConfig(kernels="liger"))
    plain = learn(dtype, as_it_is, autocast=autocast)
    assert farthest(learn(dtype, OrpheusTask.fuse_kernels, autocast=autocast), plain) < BF16


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_products_in_fp8_learn_what_bf16_learns(dtype: str) -> None:
    available(TrainConfig(fp8=True))
    plain = learn(dtype, as_it_is, autocast=True)
    assert 0 < farthest(learn(dtype, in_fp8, autocast=True), plain) < FP8
