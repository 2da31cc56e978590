"""The multi-period discriminator: one part gets the sound as it is, the others fold it by a period.

Legend: b clips, t samples, c channels, p samples of a period.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttstrain.families.gpt_sovits.shapes import (
    PERIOD_CHANNELS,
    PERIOD_KERNEL,
    POST_KERNEL,
    SCALE_GROUP,
    SCALE_LAYERS,
    periods,
)
from ttstrain.families.gpt_sovits.vae.layers import LEAK, NormedConv

if TYPE_CHECKING:
    from ttstrain.families.gpt_sovits.config import VaeNetConfig, Version

PERIOD_STRIDE = 3
SCALE_STRIDE = 4


@dataclass(frozen=True, slots=True)
class Judgement:
    """The output of one part of the discriminator."""

    score: Tensor  # (b, n) one number for each place; 1 is real
    maps: tuple[Tensor, ...]  # features of each layer, including the score; clips need not be the first dimension


@dataclass(frozen=True, slots=True)
class _Layer:
    """A convolution with its computed weight."""

    weight: Tensor
    bias: Tensor
    stride: int
    padding: int
    groups: int


@dataclass(frozen=True, slots=True)
class FixedDiscriminator:
    """A discriminator with weights computed once from weight norm; valid until the next update."""

    parts: tuple[tuple[int, tuple[_Layer, ...]], ...]  # period, layers

    def __call__(self, wav: Tensor) -> list[Judgement]:
        """Return each part's output for sound (b, 1, t)."""
        return [_judge(wav, period, layers) for period, layers in self.parts]


class _Conv(NormedConv):
    """A convolution over time, in the two dimensions that the files give it where it follows a period."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, folded: bool
    ) -> None:
        super().__init__(outputs, inputs // groups, kernel, *((1,) if folded else ()), bias=outputs)
        self.stride = stride
        self.padding = kernel // 2
        self.groups = groups

    def worked_out(self) -> _Layer:
        bias = self.bias if torch.is_grad_enabled() else self.bias.detach()
        return _Layer(self.weight(), bias, self.stride, self.padding, self.groups)


class _Part(nn.Module):
    """The layers of one part; `period` 1 does not fold."""

    def __init__(self, period: int, convs: Sequence[_Conv], post: _Conv) -> None:
        super().__init__()
        self.period = period
        self.convs = nn.ModuleList(convs)
        self.conv_post = post

    def worked_out(self) -> tuple[_Layer, ...]:
        convs = [conv for conv in (*self.convs, self.conv_post) if isinstance(conv, _Conv)]
        return tuple(conv.worked_out() for conv in convs)


class Discriminator(nn.Module):
    """All parts together; Pro versions have two more periods."""

    def __init__(self, config: VaeNetConfig, version: Version) -> None:
        super().__init__()
        most = config.discriminator_channels
        parts = [_scale_part(most), *(_period_part(period, most) for period in periods(version))]
        self.discriminators = nn.ModuleList(parts)

    def fixed(self) -> FixedDiscriminator:
        """Compute the weights from weight norm, once for several calls. Under `no_grad` they are constants."""
        parts = [part for part in self.discriminators if isinstance(part, _Part)]
        return FixedDiscriminator(tuple((part.period, part.worked_out()) for part in parts))

    def forward(self, wav: Tensor) -> list[Judgement]:
        """Return each part's output for sound (b, 1, t)."""
        return self.fixed()(wav)


def _scale_part(most: int) -> _Part:
    convs = []
    inputs = 1
    for layer, (channels, kernel) in enumerate(SCALE_LAYERS):
        outputs = min(channels, most)
        inner = 0 < layer < len(SCALE_LAYERS) - 1
        groups = inputs // SCALE_GROUP if inner else 1
        convs.append(_Conv(inputs, outputs, kernel, stride=SCALE_STRIDE if inner else 1, groups=groups, folded=False))
        inputs = outputs
    return _Part(1, convs, _Conv(inputs, 1, POST_KERNEL, folded=False))


def _period_part(period: int, most: int) -> _Part:
    convs = []
    inputs = 1
    for layer, channels in enumerate(PERIOD_CHANNELS):
        outputs = min(channels, most)
        stride = 1 if layer == len(PERIOD_CHANNELS) - 1 else PERIOD_STRIDE
        convs.append(_Conv(inputs, outputs, PERIOD_KERNEL, stride=stride, folded=True))
        inputs = outputs
    return _Part(period, convs, _Conv(inputs, 1, POST_KERNEL, folded=True))


def _judge(wav: Tensor, period: int, layers: Sequence[_Layer]) -> Judgement:
    if period == 1:
        return _judge_scale(wav, layers)
    return _judge_folded(_fold(wav, period), layers)


def _judge_scale(x: Tensor, layers: Sequence[_Layer]) -> Judgement:
    maps = []
    for i, layer in enumerate(layers):
        x = F.conv1d(x, layer.weight, layer.bias, layer.stride, layer.padding, groups=layer.groups)
        x = F.leaky_relu(x, LEAK) if i < len(layers) - 1 else x
        maps.append(x)
    return Judgement(score=x.flatten(1), maps=tuple(maps))


def _judge_folded(x: Tensor, layers: Sequence[_Layer]) -> Judgement:
    """Return the output for folded sound (b, 1, t / p, p), one phase per column, with kernels one column wide."""
    maps = []
    for i, layer in enumerate(layers):
        x = F.conv2d(x, layer.weight, layer.bias, (layer.stride, 1), (layer.padding, 0))
        x = F.leaky_relu(x, LEAK) if i < len(layers) - 1 else x
        maps.append(x)
    return Judgement(score=x.flatten(1), maps=tuple(maps))


def _fold(wav: Tensor, period: int) -> Tensor:
    """Return (b, 1, t / p, p): the samples of one phase lie below each other; the end is mirrored to fill up."""
    missing = -wav.shape[2] % period
    if missing:
        wav = F.pad(wav, (0, missing), mode="reflect")
    return wav.view(*wav.shape[:2], -1, period)
