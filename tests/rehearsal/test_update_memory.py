"""What an update takes beside weights, gradients and moments, on a GPU with large weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pretended_cuda import GPU, PretendedCuda, needs_cuda_build, pretended_cuda
from torch import nn

from ttstrain.optim import measured, rounded
from ttstrain.optim.groups import build_groups
from ttstrain.optim.optimizers import Optimizers
from ttstrain.recipe.schema import OptimConfig

pytestmark = needs_cuda_build

MIB = 2**20


def optimizers_of(net: nn.Module) -> Optimizers:
    table = build_groups({"model": net}, list(net.named_parameters()), OptimConfig())
    return Optimizers.build(table, total_steps=10, steps_per_epoch=10)


def give_gradients(net: nn.Module) -> None:
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)


def beside(gpu: PretendedCuda, act: Any) -> int:
    """Return the bytes that `act` takes at its peak and gives back."""
    before = gpu.live
    gpu.reset_peak()
    act()
    assert gpu.live == before
    return gpu.peak - before


def test_a_measured_update_copies_a_few_weights_at_a_time() -> None:
    with pretended_cuda() as gpu:
        with gpu.fake:
            net = nn.ModuleList(nn.Linear(4096, 8192, bias=False) for _ in range(8)).to(GPU)  # 8 times 128 MiB
        optimizers = optimizers_of(net)
        give_gradients(net)
        optimizers.step("model")  # makes the moments
        plain = beside(gpu, lambda: optimizers.step("model"))
        taken = beside(gpu, lambda: optimizers.measured_step("model"))
        assert 128 * MIB <= taken - plain <= measured.PIECE_BYTES + MIB


def test_a_large_embedding_in_bf16_is_rounded_in_pieces() -> None:
    with pretended_cuda() as gpu:
        with gpu.fake:
            net = nn.Embedding(40_000, 3072, dtype=torch.bfloat16).to(GPU)  # 123 M values
        optimizers = optimizers_of(net)
        give_gradients(net)
        optimizers.step("model")
        taken = beside(gpu, lambda: optimizers.step("model"))
        assert 4 * rounded.PIECE <= taken <= 8 * 4 * rounded.PIECE  # bytes; the whole would take 2.4 GB


@pytest.mark.parametrize("measure", [False, True])
def test_the_host_waits_for_no_update(measure: bool) -> None:
    with pretended_cuda() as gpu:
        net = nn.Linear(64, 64).to(GPU)
        optimizers = optimizers_of(net)
        give_gradients(net)
        gpu.waits.clear()
        optimizers.measured_step("model") if measure else optimizers.step("model")
        assert gpu.waits == []
