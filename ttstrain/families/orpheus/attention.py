"""Attention among the tokens of one document only, though many lie in one row.

transformers' Llama calls it by name: see `AttentionInterface`. It never sees a mask and cannot fall back to one.
Legend: n tokens, a query heads, g key heads, c channels of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

NAME: Final = "ttstrain_packed"
_HALF: Final = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class Packing:
    """Where documents begin and end, known on the host, so that no layer waits for the device."""

    lengths: tuple[int, ...]
    cu_seqlens: Tensor  # (d + 1,) int32, on the device of the tokens

    @classmethod
    def of(cls, cu_seqlens: Tensor, device: torch.device) -> Packing:
        """Read the starts (d + 1,) of documents, which must be on the CPU."""
        return cls(tuple(cu_seqlens.diff().tolist()), cu_seqlens.to(device, torch.int32, non_blocking=True))

    @property
    def max_length(self) -> int:
        return max(self.lengths)


def attend(
    module: nn.Module,
    query: Tensor,  # (1, a, n, c)
    key: Tensor,  # (1, g, n, c)
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    packing: Packing | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend causally within each document of `packing`; without one, to all that came before."""
    if attention_mask is not None:
        raise ValueError("packed attention takes no mask: documents are told apart by where they begin")
    if packing is None:
        return _causal(query, key, value, scale=scaling).transpose(1, 2), None
    if query.is_cuda and value.dtype in _HALF:
        return _varlen(query, key, value, packing, scale=scaling), None
    return _each(query, key, value, packing, scale=scaling).transpose(1, 2), None


def _each(query: Tensor, key: Tensor, value: Tensor, packing: Packing, *, scale: float) -> Tensor:
    """Call the ordinary kernel for every document: exact on any device and in any precision."""
    parts = [torch.split(tensor, list(packing.lengths), dim=2) for tensor in (query, key, value)]
    return torch.cat([_causal(q, k, v, scale=scale) for q, k, v in zip(*parts, strict=True)], dim=2)


def _causal(query: Tensor, key: Tensor, value: Tensor, *, scale: float) -> Tensor:
    new, seen = query.shape[2], key.shape[2]
    if new not in (1, seen):
        raise ValueError(f"{new} new tokens after {seen - new}: only one at a time can follow a cache")
    attended: Tensor = F.scaled_dot_product_attention(
        query, key, value, is_causal=new > 1, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
    )
    return attended


def _varlen(query: Tensor, key: Tensor, value: Tensor, packing: Packing, *, scale: float) -> Tensor:
    """Use torch's flash kernel for documents of any length; return (1, n, a, c)."""
    from torch.nn.attention.varlen import varlen_attn

    groups = query.shape[1] // key.shape[1]  # torch 2.11 documents equal numbers of heads
    # Rotary positions are computed in fp32 under autocast: bring all three to what the values are in.
    flat = [tensor[0].transpose(0, 1).to(value.dtype) for tensor in (query, key, value)]
    q, k, v = flat[0], flat[1].repeat_interleave(groups, dim=1), flat[2].repeat_interleave(groups, dim=1)
    longest = packing.max_length
    attended = varlen_attn(
        q, k, v, packing.cu_seqlens, packing.cu_seqlens, longest, longest, scale=scale, window_size=(-1, 0)
    )
    assert isinstance(attended, Tensor)
    return attended[None]


AttentionInterface.register(NAME, attend)
