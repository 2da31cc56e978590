"""Scaled dot-product attention as torch 2.11 dispatches it on a GPU of compute capability 8.0 or more.

torch chooses between its kernels in C++, which asks the driver; the rules are repeated here, and the kernel's own
operator is called, so that what it leaves for the backward pass is counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

aten = torch.ops.aten


def backend_of(query: Tensor, key: Tensor, value: Tensor, *, masked: bool, causal: bool) -> str:
    """Name the kernel, as aten/src/ATen/native/transformers/cuda/sdp_utils.cpp does on compute capability 9.0."""
    half = query.dtype in (torch.bfloat16, torch.float16)
    width, alike = query.shape[-1], query.dtype == key.dtype == value.dtype
    if query.dim() != 4 or not alike:
        return "math"
    has_cudnn = torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
    if has_cudnn and half and width <= 128 and width % 8 == 0 and key.shape[2] != 1:
        return "cudnn"
    if half and not masked and width <= 256 and not (causal and query.shape[2] != key.shape[2]):
        return "flash"
    return "efficient" if width % (8 if half else 4) == 0 else "math"


def make_attention(calls: Counter[str]) -> Callable[..., Tensor]:
    """Return what stands in for `F.scaled_dot_product_attention`; `calls` counts the kernels it calls."""
    real = F.scaled_dot_product_attention

    def attend(  # noqa: PLR0917  torch's own signature
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if query.device.type != "cuda":
            return real(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
        if torch.is_autocast_enabled("cuda"):  # attention is on autocast's list for half precision
            kind = torch.get_autocast_dtype("cuda")
            query, key, value = query.to(kind), key.to(kind), value.to(kind)
            if attn_mask is not None and attn_mask.is_floating_point():
                attn_mask = attn_mask.to(kind)
        with torch.autocast("cuda", enabled=False):
            backend = backend_of(query, key, value, masked=attn_mask is not None, causal=is_causal)
            calls[backend] += 1
            if enable_gqa and backend != "math":
                groups = query.shape[1] // key.shape[1]
                key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
            mask = attn_mask if backend == "math" else _bias(attn_mask, query, key, padded=backend == "efficient")
            return _call(backend, query, key, value, mask, dropout_p, is_causal, scale, enable_gqa)

    return attend


def _call(  # noqa: PLR0917  as torch's operators
    backend: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    causal: bool,
    scale: float | None,
    gqa: bool,
) -> Tensor:
    saved = torch.is_grad_enabled()
    if backend == "cudnn":
        found = aten._scaled_dot_product_cudnn_attention(
            query, key, value, mask, saved, dropout, causal, False, scale=scale
        )
    elif backend == "flash":
        found = aten._scaled_dot_product_flash_attention(query, key, value, dropout, causal, False, scale=scale)
    elif backend == "efficient":
        found = aten._scaled_dot_product_efficient_attention(
            query, key, value, mask, saved, dropout, causal, scale=scale
        )
    else:
        found = aten._scaled_dot_product_attention_math(
            query, key, value, mask, dropout, causal, scale=scale, enable_gqa=gqa
        )
    attended: Tensor = found[0]
    return attended


def _bias(mask: Tensor | None, query: Tensor, key: Tensor, *, padded: bool) -> Tensor | None:
    """Turn a mask into what is added to the scores; the efficient kernel wants rows of a multiple of 8."""
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        mask = torch.where(mask, 0.0, -math.inf).to(query.dtype)
    if not padded:
        return mask
    width = mask.shape[-1]
    if any(stride % 8 for stride in mask.stride()[:-1]):
        mask = F.pad(mask, (0, 8 - width % 8))[..., :width]
    return mask.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
