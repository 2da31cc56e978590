"""Attention within documents that are packed into one row.

transformers' Llama calls it by name: see `AttentionInterface`. It uses no mask.
Legend: n tokens, a query heads, g key heads, c channels of a head.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import AttentionInterface

NAME: Final = "ttstrain_packed"
_HALF: Final = (torch.float16, torch.bfloat16)
PROBE_TOLERANCE: Final = 0.05  # of the largest value; bf16 keeps 8 bits, and what leaks moves values by their size


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
        raise ValueError("packed attention takes no mask: documents are separated by their start positions")
    if packing is None:
        return _causal(query, key, value, scale=scaling).transpose(1, 2), None
    if query.is_cuda and value.dtype in _HALF and has_varlen(query.device, value.dtype, query.shape[-1]):
        return _varlen(query, key, value, packing, scale=scaling), None
    return _each(query, key, value, packing, scale=scaling).transpose(1, 2), None


def _each(query: Tensor, key: Tensor, value: Tensor, packing: Packing, *, scale: float) -> Tensor:
    """Call the ordinary kernel for every document: exact on any device and in any precision."""
    parts = [torch.split(tensor, list(packing.lengths), dim=2) for tensor in (query, key, value)]
    return torch.cat([_causal(q, k, v, scale=scale) for q, k, v in zip(*parts, strict=True)], dim=2)


def _causal(query: Tensor, key: Tensor, value: Tensor, *, scale: float) -> Tensor:
    new, seen = query.shape[2], key.shape[2]
    if new not in (1, seen):
        raise ValueError(
            f"{new} new tokens after {seen - new} cached ones: with a cache only one token at a time is supported"
        )
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


@functools.cache
def has_varlen(device: torch.device, dtype: torch.dtype, channels: int) -> bool:
    """Check once whether the variable-length kernel is available and correct; warn if it is not."""
    reason = misfit(_varlen, device=device, dtype=dtype, channels=channels)
    if reason is not None:
        warnings.warn(
            f"{device}: packed attention falls back to one document at a time, which is slower: {reason}",
            RuntimeWarning,
            stacklevel=2,
        )
    return reason is None


def misfit(kernel: Callable[..., Tensor], *, device: torch.device, dtype: torch.dtype, channels: int) -> str | None:
    """Run a kernel on three short documents, forward and backward; return its fault, if any."""
    generator = torch.Generator().manual_seed(0)
    packing = Packing.of(torch.tensor([0, 5, 6, 19], dtype=torch.int32), device)
    found: list[list[Tensor]] = []
    kernels: tuple[Callable[..., Tensor], ...] = (kernel, _each)
    for number, attended in enumerate(kernels):
        generator.manual_seed(0)
        q, k, v = (
            torch.randn(1, heads, 19, channels, generator=generator).to(device, dtype).requires_grad_()
            for heads in (4, 2, 2)
        )
        try:
            # What the check saves is nothing that a recomputed layer around it may count.
            own = saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)
            with own, torch.enable_grad(), torch.autocast(device.type, enabled=False):
                out = attended(q, k, v, packing, scale=channels**-0.5)
                out = out.transpose(1, 2) if number else out
                gradients = torch.autograd.grad(out.float().square().sum(), [q, k, v])
        except (RuntimeError, ImportError, NotImplementedError, TypeError) as error:
            return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        found.append([out.detach(), *gradients])
    for one, other in zip(*found, strict=True):
        if _distance(one, other) > PROBE_TOLERANCE:
            return "its results differ from those of the ordinary kernel"
    return None


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one.float() - other.float()).abs().max() / other.float().abs().max())


AttentionInterface.register(NAME, attend)
