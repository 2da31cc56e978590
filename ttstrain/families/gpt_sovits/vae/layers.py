"""Layers that several parts of the VAE share: convolutions under weight norm, masks and the norm over channels.

Legend: b clips, c channels, n frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAK = 0.1  # slope of leaky ReLUs, in decoder and discriminator


class NormedConv(nn.Module):
    """A convolution whose weight is a direction `weight_v` times a length `weight_g` for each first index.

    Names and order are those of torch's first `weight_norm`, which upstream's files keep. Nothing is cached: the weight
    is computed when it is asked for, so the module can be copied at any time.
    """

    def __init__(self, *shape: int, bias: int) -> None:
        """Start like torch's own convolution of this weight `shape`; `bias` is the number of outputs."""
        super().__init__()
        weight = nn.init.kaiming_uniform_(torch.empty(shape), a=5**0.5)
        bound = weight[0].numel() ** -0.5
        self.bias = nn.Parameter(torch.empty(bias).uniform_(-bound, bound))
        self.weight_g = nn.Parameter(weight.flatten(1).norm(dim=1).view(-1, *(1 for _ in shape[1:])))
        self.weight_v = nn.Parameter(weight)

    def weight(self) -> Tensor:
        """Return the weight that the direction and the lengths make."""
        return torch._weight_norm(self.weight_v, self.weight_g, 0)


class NormedConv1d(NormedConv):
    """A convolution of one dimension with its length kept at stride 1."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, dilation: int = 1) -> None:
        super().__init__(outputs, inputs, kernel, bias=outputs)
        self.dilation = dilation
        self.padding = (kernel - 1) * dilation // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.conv1d(x, self.weight(), self.bias, padding=self.padding, dilation=self.dilation)


class NormedUpsampling(NormedConv):
    """A transposed convolution that makes `rate` samples of each."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, rate: int) -> None:
        super().__init__(inputs, outputs, kernel, bias=outputs)
        self.rate = rate
        self.padding = (kernel - rate) // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose1d(x, self.weight(), self.bias, stride=self.rate, padding=self.padding)


class ChannelNorm(nn.Module):
    """Layer norm over the channels of (b, c, n)."""

    EPS = 1e-5

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.mT, self.gamma.shape, self.gamma, self.beta, self.EPS).mT


def length_mask(lengths: Sequence[int], *, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return (b, 1, width): 1 within each length, 0 after it."""
    # Not waiting for the device: a plain copy would first let it finish what it is doing.
    ends = torch.tensor(lengths).to(device, non_blocking=True)
    return (torch.arange(width, device=device)[None, None] < ends[:, None, None]).to(dtype)
