"""Dropout that is not a tenth of a training step on a CPU."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Dropout(nn.Module):
    """Dropout from torch's global generator; on a CPU with four choices per random number.

    torch draws each choice of a CPU mask on its own, six times as slow. The chance is a multiple of 2**-16 there, and
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
    bits = torch.empty(-(-number // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:number]
    factors = torch.empty(number, dtype=dtype)
    torch.lt(bits, survivors - 2**15, out=factors)
    return factors.mul_(2**16 / survivors).view(shape)
