"""The head of a language model holds few tokens' logits on a GPU, as many in every step."""

from __future__ import annotations

import pytest
import torch
from pretended_cuda import GPU, PretendedCuda, needs_cuda_build, pretended_cuda

from ttstrain.families.orpheus import loss
from ttstrain.families.orpheus.ids import PUBLISHED

pytestmark = needs_cuda_build

VOCAB, WIDTH = 156_940, 64


def peak_of(gpu: PretendedCuda, *, tokens: int) -> int:
    with gpu.fake:
        hidden = torch.zeros(tokens, WIDTH, device=GPU, dtype=torch.bfloat16)
        weight = torch.zeros(VOCAB, WIDTH, device=GPU, dtype=torch.bfloat16)
        targets, slots = (torch.zeros(tokens, dtype=torch.long, device=GPU) for _ in range(2))
    before = gpu.live
    gpu.reset_peak()
    loss.head_loss(hidden, weight, targets, slots, options=loss.HeadOptions(PUBLISHED))
    return gpu.peak - before


def test_logits_take_what_a_chunk_takes() -> None:
    with pretended_cuda() as gpu:
        one, many = (peak_of(gpu, tokens=tokens) for tokens in (1024, 4096))
        assert many == pytest.approx(one, rel=0.05)
        assert one < 3 * 4 * 1024 * VOCAB  # bytes: two copies in half precision and one in fp32, some codes beside
        assert gpu.waits == []
