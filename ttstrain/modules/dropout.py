"""Dropout that is not a tenth of a training step on a CPU."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttstrain.modules.padding import zero_padding


class Dropout(nn.Module):
    """Dropout from torch's global generator; on a CPU with four choices per random number.

    torch draws each choice of a CPU mask on its own, ten times as slow. The chance is a multiple of 2**-16 there, and
    survivors are scaled by exactly that. `inplace` overwrites what it is given, for results that nothing else needs.
    """

    def __init__(self, p: float, *, inplace: bool = False) -> None:
        super().__init__()
        self.p = p
        self.inplace = inplace

    def forward(self, x: Tensor, *, kept: Tensor | None = None) -> Tensor:
        """Drop values of x (..., d), and all of those rows where `kept` (...) is false."""
        if not self.training or self.p == 0.0:
            return x if kept is None else zero_padding(x, kept)
        if x.device.type != "cpu":
            x = F.dropout(x, self.p, inplace=self.inplace)
            return x if kept is None else zero_padding(x, kept)
        factors = survival_factors(x.shape, self.p, dtype=x.dtype)
        if kept is not None:  # a few rows of the factors cost less than a product over all of x, and another backward
            factors.flatten(0, -2).index_fill_(0, (~kept).flatten().nonzero().flatten(), 0.0)
        return x.mul_(factors) if self.inplace else x * factors

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


def survival_factors(shape: torch.Size, p: float, *, dtype: torch.dtype) -> Tensor:
    """Draw 0 with chance `p` and else the factor that keeps the mean, on the CPU."""
    number = math.prod(shape)
    survivors = min(max(round((1 - p) * 2**16), 1), 2**16 - 1)
    bits = _sixteen_bits(number)
    torch.lt(bits, survivors - 2**15, out=bits)  # 1 or 0, in the same memory
    return bits.to(dtype).mul_(2**16 / survivors).view(shape)


def _sixteen_bits(number: int) -> Tensor:
    """Draw so many int16, evenly from all there are.

    torch's generator, whose state a checkpoint holds, seeds one that is twice as fast.
    """
    seed = int(torch.empty((), dtype=torch.int64).random_())
    words = np.random.SFC64(seed).random_raw(-(-number // 4))
    return torch.from_numpy(words.view(np.int16))[:number]
