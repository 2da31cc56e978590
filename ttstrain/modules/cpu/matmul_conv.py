"""Convolution over time as one matrix product.

For wide convolutions over short sounds a CPU's matrix product does twice the arithmetic a second that its convolution
kernels do.
Channels come first, clips second: windows of all clips are then columns of one matrix, and the product is laid out as
the next convolution wants it.

Legend: c channels in, o channels out, r rows (clips, or clips times phases), t steps of time, u of them after striding,
k kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ttstrain.modules.cpu.switch import kernels_on


def worthwhile(x: Tensor) -> bool:
    """Say whether `conv` is the faster way for this tensor: fp32 on a CPU, nothing cast behind its back."""
    return kernels_on(x.device) and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def conv(x: Tensor, weight: Tensor, bias: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
    """Return (o, r, u) of x (c, r, t), as `F.conv1d` does with rows first; `weight` is (o, c, k)."""
    result: Tensor = _Conv.apply(x, weight, bias, _Steps(stride, padding))  # type: ignore[no-untyped-call]
    return result


@dataclass(frozen=True, slots=True)
class _Steps:
    """How the kernel moves over the sound."""

    stride: int
    padding: int


class _Conv(torch.autograd.Function):
    """The windows are cheap to cut out again, so that only the input is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, steps: _Steps) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.steps = steps
        columns = _windows(x, weight.shape[2], steps)  # (c, k, r, u)
        product = torch.addmm(bias[:, None], weight.flatten(1), columns.view(-1, columns[0, 0].numel()))
        return product.view(len(product), *columns.shape[2:])

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        flat = gradient.reshape(len(gradient), -1)  # (o, r u)
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            columns = (weight.flatten(1).T @ flat).view(*weight.shape[1:], *gradient.shape[1:])
            of_x = _overlapped(columns, x.shape[2], ctx.steps)
        if ctx.needs_input_grad[1]:
            columns = _windows(x, weight.shape[2], ctx.steps)
            of_weight = (flat @ columns.view(-1, flat.shape[1]).T).view(weight.shape)
        if ctx.needs_input_grad[2]:
            of_bias = flat.sum(dim=1)
        return of_x, of_weight, of_bias, None


def _windows(x: Tensor, kernel: int, steps: _Steps) -> Tensor:
    """Copy what each place of the kernel sees: (c, k, r, u) of x (c, r, t)."""
    if kernel == 1 and steps == _Steps(1, 0):
        return x.contiguous()[:, None]
    return F.pad(x, (steps.padding, steps.padding)).unfold(2, kernel, steps.stride).permute(0, 3, 1, 2).contiguous()


def _overlapped(columns: Tensor, length: int, steps: _Steps) -> Tensor:
    """Add windows (c, k, r, u) up where they came from: (c, r, length). The inverse path of `_windows`."""
    channels, kernel, rows, number = columns.shape
    if kernel == 1 and steps == _Steps(1, 0):
        return columns[:, 0]
    padded = columns.new_zeros(channels, rows, length + 2 * steps.padding)
    reach = steps.stride * (number - 1) + 1
    for place in range(kernel):
        padded[:, :, place : place + reach : steps.stride] += columns[:, place]
    return padded[:, :, steps.padding : steps.padding + length]
