"""Rows that pad a batch."""

from __future__ import annotations

from torch import Tensor


def zero_padding(x: Tensor, mask: Tensor) -> Tensor:
    """Clear the rows of x (..., d) where the mask (...) is false; a product, as a fill costs thrice as much."""
    return x * mask.unsqueeze(-1).type_as(x)
