"""Grouped convolution along the frames.

Legend: b clips, n frames, d channels, g groups, c channels of one group, k taps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttstrain.modules.cpu.switch import kernels_on

WIDEST_GROUP: Final = 24  # channels; groups of 8 and 24 gained, groups of 64 lost: see the results named in this folder


class FrameConv1d(nn.Conv1d):
    """A convolution from (b, n, d) to (b, n, d): channels last, stride 1, an odd number of taps, the length kept."""

    def __init__(self, channels: int, taps: int, *, groups: int) -> None:
        super().__init__(channels, channels, taps, padding=taps // 2, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.in_channels // self.groups <= WIDEST_GROUP
        if narrow and kernels_on(x.device) and not torch.is_autocast_enabled("cpu"):
            convolve: Callable[..., Tensor] = _FrameConvolution.apply
            return convolve(x, self.weight, self.bias, self.groups)
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class _FrameConvolution(torch.autograd.Function):
    """The same numbers as `nn.Conv1d`, but for rounding.

    oneDNN likes a picture one row high with its channels last, which is how (b, n, d) lies in memory; and the weights'
    gradient is quicker as one matrix product per group over a sliding window.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.groups = groups
        padding = (0, weight.shape[-1] // 2)
        out = F.conv2d(_picture(x), weight.unsqueeze(2), bias, padding=padding, groups=groups)
        return out.squeeze(2).transpose(1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        for_x = None
        if ctx.needs_input_grad[0]:
            padding = [0, weight.shape[-1] // 2]
            for_x, _, _ = torch.ops.aten.convolution_backward(
                _picture(gradient),
                _picture(x),
                weight.unsqueeze(2),
                None,
                [1, 1],
                padding,
                [1, 1],
                False,
                [0, 0],
                ctx.groups,
                [True, False, False],
            )
            for_x = for_x.squeeze(2).transpose(1, 2)
        return for_x, _weight_gradient(x, gradient, weight, groups=ctx.groups), gradient.sum((0, 1)), None


def _picture(x: Tensor) -> Tensor:
    return x.transpose(1, 2).unsqueeze(2)  # (b, d, 1, n)


def _weight_gradient(x: Tensor, gradient: Tensor, weight: Tensor, *, groups: int) -> Tensor:
    num_clips, num_frames, dim = x.shape
    width, taps = weight.shape[1:]
    padded = F.pad(x, (0, 0, taps // 2, taps // 2)).view(num_clips, -1, groups, width)  # (b, n + k - 1, g, c)
    padded = padded.transpose(1, 2).contiguous()  # (b, g, n + k - 1, c)
    wanted = gradient.reshape(num_clips, num_frames, groups, width).permute(0, 2, 3, 1)  # (b, g, c, n)
    total = x.new_zeros(groups, width, taps * width)
    for clip, each in zip(padded, wanted, strict=True):
        # Frame n's window is the k frames from n on, one after the other in memory.
        windows = clip.as_strided((groups, num_frames, taps * width), (clip.stride(0), width, 1))
        total.baddbmm_(each, windows)
    return total.view(groups, width, taps, width).transpose(2, 3).reshape(dim, width, taps)
