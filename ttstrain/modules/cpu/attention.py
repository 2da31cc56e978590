"""Attention with dropout.

Legend: h heads, n and m rows, c channels of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ttstrain.modules.cpu.dropout import survival_factors
from ttstrain.modules.cpu.switch import kernels_on


def attend(query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None, dropout: float) -> Tensor:
    """Attend from (..., h, n, c) to (..., h, m, c) under a mask that broadcasts to (..., h, n, m).

    A mask of bools is True where a row may look; one of numbers is added to the scores. torch's fused CPU kernel knows
    no dropout, and what torch does instead draws each choice on its own: so the weights are computed here.
    """
    if dropout == 0.0 or not kernels_on(query.device):
        if query.ndim == 3:  # torch's fast kernels want four dimensions
            return F.scaled_dot_product_attention(
                query[None], key[None], value[None], attn_mask=mask, dropout_p=dropout
            )[0]
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill_(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    weights = scores.softmax(dim=-1)
    attended: Tensor = (weights * survival_factors(weights.shape, dropout, dtype=weights.dtype)) @ value
    return attended
