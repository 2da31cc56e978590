"""HiFi-GAN's generator (arXiv 2010.05646): from the latent to sound, 640 samples a frame.

Legend: b clips, c channels, t steps of time at whatever rate, n frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from ttstrain.families.gpt_sovits.shapes import EDGE_KERNEL
from ttstrain.families.gpt_sovits.vae.layers import LEAK, NormedConv1d, NormedUpsampling

if TYPE_CHECKING:
    from ttstrain.families.gpt_sovits.config import VaeNetConfig

LAST_LEAK = 0.01  # before the last convolution upstream names no slope and gets torch's


class ResBlock(nn.Module):
    """Pairs of convolutions, the first of each pair dilated, around which the input is added."""

    def __init__(self, channels: int, kernel: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(NormedConv1d(channels, channels, kernel, dilation=d) for d in dilations)
        self.convs2 = nn.ModuleList(NormedConv1d(channels, channels, kernel) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        for first, second in zip(self.convs1, self.convs2, strict=True):
            x = x + second(F.leaky_relu(first(F.leaky_relu(x, LEAK)), LEAK))
        return x


class Decoder(nn.Module):
    """Upsampling stages, each followed by the mean of blocks with different kernels."""

    def __init__(self, config: VaeNetConfig) -> None:
        super().__init__()
        channels = config.upsample_initial_channel
        blocks = list(zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True))
        self.num_blocks = len(blocks)
        self.conv_pre = nn.Conv1d(config.inter_channels, channels, EDGE_KERNEL, padding=EDGE_KERNEL // 2)
        self.ups = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        for rate, kernel in zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True):
            self.ups.append(NormedUpsampling(channels, channels // 2, kernel, rate=rate))
            channels //= 2
            self.resblocks.extend(ResBlock(channels, size, dilations) for size, dilations in blocks)
        self.conv_post = nn.Conv1d(channels, 1, EDGE_KERNEL, padding=EDGE_KERNEL // 2, bias=False)
        self.cond = nn.Conv1d(config.gin_channels, config.upsample_initial_channel, 1)

    def forward(self, z: Tensor, style: Tensor) -> Tensor:
        """Return sound (b, 1, 640 n) of a latent (b, c, n) in a style (b, g, 1)."""
        x = self.conv_pre(z) + self.cond(style)
        for stage, upsample in enumerate(self.ups):
            x = upsample(F.leaky_relu(x, LEAK))
            start = stage * self.num_blocks
            total = self.resblocks[start](x)
            for block in self.resblocks[start + 1 : start + self.num_blocks]:
                total = total + block(x)
            x = total / self.num_blocks
        wav: Tensor = self.conv_post(F.leaky_relu(x, LAST_LEAK)).tanh()
        return wav
