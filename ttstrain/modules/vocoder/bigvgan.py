"""BigVGAN v2: a waveform from a log-mel through upsampling and anti-aliased periodic activations. Inference only.

Names of modules are those of NVIDIA's generator with its weight norm folded in. Lee et al. 2023, arXiv 2206.04658; the
filters are those of Karras et al. 2021 (StyleGAN3), arXiv 2106.12423.

Legend: b clips, m mel bins, n frames, c channels, t samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RATIO = 2  # an activation works at twice the rate of its input
TAPS = 12  # of the low-pass filters on the way up and down
SMALLEST = 1e-9  # keeps a learned magnitude off zero
_NORMED = (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1"))


@dataclass(frozen=True, slots=True)
class BigVganConfig:
    """The numbers in `config.json` that shape the generator."""

    n_mels: int
    initial_channels: int
    upsample_rates: Sequence[int]
    upsample_kernels: Sequence[int]
    block_kernels: Sequence[int]
    block_dilations: Sequence[Sequence[int]]
    log_scale: bool  # the activations' parameters are logarithms
    final_bias: bool
    final_tanh: bool  # else the waveform is clamped


class BigVgan(nn.Module):
    """Turn a log-mel into a waveform; each frame becomes as many samples as the product of the upsampling rates."""

    def __init__(self, config: BigVganConfig) -> None:
        super().__init__()
        self.final_tanh = config.final_tanh
        channels = config.initial_channels
        self.conv_pre = nn.Conv1d(config.n_mels, channels, kernel_size=7, padding=3)
        self.ups = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        for rate, kernel in zip(config.upsample_rates, config.upsample_kernels, strict=True):
            half = channels // 2
            up = nn.ConvTranspose1d(channels, half, kernel, stride=rate, padding=(kernel - rate) // 2)
            self.ups.append(nn.ModuleList([up]))
            for width, dilations in zip(config.block_kernels, config.block_dilations, strict=True):
                self.resblocks.append(_Block(half, kernel=width, dilations=dilations, log_scale=config.log_scale))
            channels = half
        self.activation_post = _Activation(channels, log_scale=config.log_scale)
        self.conv_post = nn.Conv1d(channels, 1, kernel_size=7, padding=3, bias=config.final_bias)

    def forward(self, mel: Tensor) -> Tensor:
        """Return waveforms (b, t) in [-1, 1] of log-mels (b, m, n)."""
        x = self.conv_pre(mel)
        width = len(self.resblocks) // len(self.ups)
        for number, up in enumerate(self.ups):
            assert isinstance(up, nn.ModuleList)
            x = up[0](x)
            blocks = list(self.resblocks)[number * width : (number + 1) * width]
            x = torch.stack([block(x) for block in blocks]).sum(0) / width
        x = self.conv_post(self.activation_post(x))[:, 0]
        return torch.tanh(x) if self.final_tanh else x.clamp(-1, 1)


class _Block(nn.Module):
    """Residual pairs of convolutions, the first of each dilated, an activation before each."""

    def __init__(self, channels: int, *, kernel: int, dilations: Sequence[int], log_scale: bool) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(_conv(channels, kernel=kernel, dilation=dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(_conv(channels, kernel=kernel, dilation=1) for _ in dilations)
        self.activations = nn.ModuleList(_Activation(channels, log_scale=log_scale) for _ in range(2 * len(dilations)))

    def forward(self, x: Tensor) -> Tensor:
        for number, (first, second) in enumerate(zip(self.convs1, self.convs2, strict=True)):
            inner = first(self.activations[2 * number](x))
            x = x + second(self.activations[2 * number + 1](inner))
        return x


def _conv(channels: int, *, kernel: int, dilation: int) -> nn.Conv1d:
    return nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=(kernel - 1) * dilation // 2)


class _Activation(nn.Module):
    """Upsample, bend, filter and downsample: the overtones that the bend makes above Nyquist do not fold back."""

    def __init__(self, channels: int, *, log_scale: bool) -> None:
        super().__init__()
        self.act = _SnakeBeta(channels, log_scale=log_scale)
        self.upsample = _Up()
        self.downsample = _Down()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.downsample(self.act(self.upsample(x)))
        return out


class _SnakeBeta(nn.Module):
    """x + sin²(alpha x) / beta for each channel."""

    def __init__(self, channels: int, *, log_scale: bool) -> None:
        super().__init__()
        self.log_scale = log_scale
        self.alpha = nn.Parameter(torch.zeros(channels) if log_scale else torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels) if log_scale else torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        alpha, beta = self.alpha[:, None], self.beta[:, None]
        if self.log_scale:
            alpha, beta = alpha.exp(), beta.exp()
        return x + torch.sin(alpha * x).square() / (beta + SMALLEST)


class _Up(nn.Module):
    filter: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", low_pass(taps=TAPS, cutoff=0.5 / RATIO, half_width=0.6 / RATIO))

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        side = TAPS // RATIO - 1
        x = F.pad(x, (side, side), mode="replicate")
        x = RATIO * F.conv_transpose1d(x, self.filter.expand(channels, -1, -1), stride=RATIO, groups=channels)
        left = side * RATIO + (TAPS - RATIO) // 2
        right = side * RATIO + (TAPS - RATIO + 1) // 2
        return x[..., left:-right]


class _Down(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lowpass = nn.Module()
        self.lowpass.register_buffer("filter", low_pass(taps=TAPS, cutoff=0.5 / RATIO, half_width=0.6 / RATIO))

    def forward(self, x: Tensor) -> Tensor:
        taps = self.lowpass.filter
        assert isinstance(taps, Tensor)
        channels = x.shape[1]
        x = F.pad(x, (TAPS // 2 - 1, TAPS // 2), mode="replicate")
        return F.conv1d(x, taps.expand(channels, -1, -1), stride=RATIO, groups=channels)


def low_pass(*, taps: int, cutoff: float, half_width: float) -> Tensor:
    """Return a Kaiser-windowed sinc (1, 1, taps) whose sum is 1; frequencies are in cycles per sample, `taps` even."""
    attenuation = 2.285 * (taps // 2 - 1) * math.pi * 4 * half_width + 7.95  # dB, Kaiser's estimate
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    elif attenuation >= 21:
        beta = 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    else:
        beta = 0.0
    time = torch.arange(taps) - taps // 2 + 0.5
    kernel = torch.kaiser_window(taps, periodic=False, beta=beta) * torch.sinc(2 * cutoff * time)
    return (kernel / kernel.sum())[None, None]


def fold_weight_norm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace each pair of magnitude and direction by the weight it stands for; the rest is passed on."""
    folded = dict(tensors)
    for key in tensors:
        for magnitude, direction in _NORMED:
            stem = key.removesuffix(magnitude)
            if stem != key and stem + direction in folded:
                scale, vectors = folded.pop(key), folded.pop(stem + direction)
                norm = vectors.flatten(1).norm(dim=1).reshape(-1, *[1] * (vectors.ndim - 1))
                folded[f"{stem}weight"] = vectors * (scale / norm)
    return folded
