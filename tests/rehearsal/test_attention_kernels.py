"""cuDNN's attention is torch 2.11's first choice on an H200, and wrong for speech of ever other lengths: it is off."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pretended_cuda import GPU, needs_cuda_build, pretended_cuda

from ttstrain.families.flow.model.attention import attend
from ttstrain.modules.cpu.attention import attend as attend_with_dropout
from ttstrain.modules.full_precision import full_precision
from ttstrain.train.device import choose_device

pytestmark = needs_cuda_build


def of_flow() -> None:
    x = torch.zeros(2, 40, 4, 64, device=GPU, dtype=torch.bfloat16)
    attend(x, x, x)


def of_a_gpt() -> None:
    x = torch.zeros(2, 4, 40, 32, device=GPU, dtype=torch.bfloat16)
    mask = torch.zeros(2, 1, 40, 40, device=GPU, dtype=torch.bfloat16)
    attend_with_dropout(x, x, x, mask=mask, dropout=0.1)


@pytest.mark.parametrize("tf32", [True, False])
def test_a_chosen_gpu_computes_fp32_as_the_recipe_says(tf32: bool) -> None:
    before = torch.backends.cudnn.allow_tf32
    try:
        with pretended_cuda():
            choose_device("auto", tf32=tf32)
            assert torch.backends.cuda.matmul.allow_tf32 is tf32
            assert torch.backends.cudnn.allow_tf32 is tf32
    finally:
        torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize(("call", "kernel"), [(of_flow, "flash"), (of_a_gpt, "efficient")])
def test_a_chosen_gpu_attends_without_cudnn(call: Callable[[], None], kernel: str) -> None:
    with pretended_cuda() as gpu:
        call()
        assert dict(gpu.attention) == {"cudnn": 1}  # what torch would do
        assert choose_device("auto", tf32=True) == GPU
        call()
        assert dict(gpu.attention) == {"cudnn": 1, kernel: 1}


def test_encoders_that_need_full_precision_keep_cudnn() -> None:
    """Without it convolutions would be unfolded into matrices, several times slower."""
    with pretended_cuda() as gpu:
        with gpu.fake:
            wav, kernel = torch.zeros(1, 1, 16_000, device=GPU), torch.zeros(512, 1, 10, device=GPU)

        def backend() -> str:
            return str(torch._C._select_conv_backend(wav, kernel, None, [5], [0], [1], False, [0], 1, None))

        outside = backend()
        with full_precision():
            assert backend() == outside
        assert "Cudnn" in outside
