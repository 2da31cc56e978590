"""Dropout that is not a tenth of a training step on a CPU."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Dropout(nn.Module):
    """Dropout from torch's global generator; on a CPU with four choices per random number.

    torch draws each choice of a CPU mask on its own, ten times as slow. The chance is a multiple of 2**-16 there, and
    survivors are scaled by exactly that.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        return x * survival_factors(x.shape, self.p, dtype=x.dtype)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def survival_factors(shape: torch.Size, p: float, *, dtype: torch.dtype) -> Tensor:
    """Draw 0 with chance `p` and else the factor that keeps the mean, on the CPU."""
    number = math.prod(shape)
    survivors = min(max(round((1 - p) * 2**16), 1), 2**16 - 1)
    factors = torch.empty(number, dtype=dtype)
    torch.lt(_sixteen_bits(number), survivors - 2**15, out=factors)
    return factors.mul_(2**16 / survivors).view(shape)


def _sixteen_bits(number: int) -> Tensor:
    """Draw so many int16, evenly from all there are.

    torch's generator, whose state a checkpoint holds, seeds a generator that is three times as fast.
    """
    seed = int(torch.empty((), dtype=torch.int64).random_())
    words = np.random.SFC64(seed).random_raw(-(-number // 4))
    return torch.from_numpy(words.view(np.int16))[:number]
