"""Dropout that draws four mask values from each random number.

torch draws every value of a CPU mask separately, which takes ten times as long.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ttstrain.modules.cpu.switch import kernels_on
from ttstrain.modules.padding import zero_padding


def dropout(x: Tensor, p: float, *, inplace: bool = False, kept: Tensor | None = None) -> Tensor:
    """Set values of x (..., d) to 0 with chance `p`, and all of those rows where `kept` (...) is false.

    `inplace` lets x be overwritten, where that saves memory.
    The kernel rounds the chance to a multiple of 2**-16 and scales survivors by exactly that. It draws other numbers
    than torch's dropout does, from torch's global generator all the same: a seed repeats them.
    """
    if not kernels_on(x.device):
        # Never in place on a GPU: that is three kernels and a mask as wide as x instead of one and a mask of bytes.
        x = F.dropout(x, p, inplace=inplace and x.device.type == "cpu")
        return x if kept is None else zero_padding(x, kept)
    factors = survival_factors(x.shape, p, dtype=x.dtype)
    if kept is not None:  # a few rows of the factors cost less than a product over all of x, and another backward
        factors.flatten(0, -2).index_fill_(0, (~kept).flatten().nonzero().flatten(), 0.0)
    return x.mul_(factors) if inplace else x * factors


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
