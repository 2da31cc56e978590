"""ERes2NetV2, the net that describes a speaker, in the shape and with the keys of 3D-Speaker's checkpoint.

Written from the architecture alone (Chen et al. 2024, arXiv 2406.02167; 3D-Speaker, Apache-2.0); v2Pro reads it as
`ERes2NetV2(baseWidth=24, scale=4, expansion=4)`. No published weights were at hand to compare outputs with.

b clips, t frames of 10 ms, c channels, f bands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

NUM_MELS = 80
SHRUNK = 8  # times fewer bands after the four stages
LARGEST = 20.0  # of an activation inside blocks


def _relu(x: Tensor) -> Tensor:
    return x.clamp(0.0, LARGEST)


def _conv(inputs: int, outputs: int, *, size: int = 1, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)


class Fusion(nn.Module):
    """Weighs two maps against each other, channel by channel and place by place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = channels // 4
        self.local_att = nn.Sequential(
            nn.Conv2d(2 * channels, narrow, 1),
            nn.BatchNorm2d(narrow),
            nn.SiLU(),
            nn.Conv2d(narrow, channels, 1),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        weight = torch.tanh(self.local_att(torch.cat([x, y], dim=1)))
        return x * (1 + weight) + y * (1 - weight)


class Block(nn.Module):
    """A residual block whose groups of channels each hear the one before, added or fused."""

    def __init__(self, inputs: int, planes: int, *, stride: int, fused: bool, net: SpeakerNet) -> None:
        super().__init__()
        self.width = planes * net.base_width // 64
        groups, outputs = net.scale, planes * net.expansion
        self.conv1 = _conv(inputs, self.width * groups, stride=stride)
        self.bn1 = nn.BatchNorm2d(self.width * groups)
        self.convs = nn.ModuleList(_conv(self.width, self.width, size=3) for _ in range(groups))
        self.bns = nn.ModuleList(nn.BatchNorm2d(self.width) for _ in range(groups))
        if fused:
            self.fuse_models = nn.ModuleList(Fusion(self.width) for _ in range(groups - 1))
        self.fused = fused
        self.conv3 = _conv(self.width * groups, outputs)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(_conv(inputs, outputs, stride=stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        groups = torch.split(_relu(self.bn1(self.conv1(x))), self.width, dim=1)
        heard: list[Tensor] = []
        for i, group in enumerate(groups):
            if i == 0:
                mixed = group
            elif self.fused:
                mixed = self.fuse_models[i - 1](heard[-1], group)
            else:
                mixed = heard[-1] + group
            heard.append(_relu(self.bns[i](self.convs[i](mixed))))
        return _relu(self.bn3(self.conv3(torch.cat(heard, dim=1))) + self.shortcut(x))


class SpeakerNet(nn.Module):
    """Four stages over a mel spectrogram, the last two fused; the mean over time describes the speaker."""

    def __init__(
        self,
        *,
        num_blocks: Sequence[int] = (3, 4, 6, 3),
        channels: int = 64,
        base_width: int = 24,
        scale: int = 4,
        expansion: int = 4,
        embedding_size: int = 192,
    ) -> None:
        super().__init__()
        self.base_width, self.scale, self.expansion = base_width, scale, expansion
        self.conv1 = _conv(1, channels, size=3)
        self.bn1 = nn.BatchNorm2d(channels)
        self._inputs = channels
        self.layer1 = self._stage(channels, num_blocks[0], stride=1, fused=False)
        self.layer2 = self._stage(2 * channels, num_blocks[1], stride=2, fused=False)
        self.layer3 = self._stage(4 * channels, num_blocks[2], stride=2, fused=True)
        self.layer4 = self._stage(8 * channels, num_blocks[3], stride=2, fused=True)
        wide = 8 * channels * expansion
        self.layer3_ds = _conv(wide // 2, wide, size=3, stride=2)
        self.fuse34 = Fusion(wide)
        # Of the published classifier, which is stored with it; v2Pro reads what comes before.
        self.seg_1 = nn.Linear(2 * self.num_features, embedding_size)

    @property
    def num_features(self) -> int:
        """Width of a description: 20480 as published."""
        return self.layer3_ds.out_channels * NUM_MELS // SHRUNK

    def _stage(self, planes: int, count: int, *, stride: int, fused: bool) -> nn.Sequential:
        blocks = []
        for number in range(count):
            blocks.append(Block(self._inputs, planes, stride=stride if number == 0 else 1, fused=fused, net=self))
            self._inputs = planes * self.expansion
        return nn.Sequential(*blocks)

    def forward(self, mel: Tensor) -> Tensor:
        """Describe speakers (b, num_features) by their mel spectrograms (b, t, 80); upstream's `forward3`."""
        x = torch.relu(self.bn1(self.conv1(mel.transpose(1, 2)[:, None])))  # (b, c, f, t)
        third = self.layer3(self.layer2(self.layer1(x)))
        fused: Tensor = self.fuse34(self.layer4(third), self.layer3_ds(third))
        return fused.flatten(1, 2).mean(dim=-1)


def net_like(tensors: Mapping[str, Any]) -> SpeakerNet:
    """Build a net of the size of a checkpoint's tensors. Raises KeyError where they are not an ERes2NetV2's."""
    channels = tensors["conv1.weight"].shape[0]
    width = tensors["layer1.0.convs.0.weight"].shape[0]
    stages = [{key.split(".")[1] for key in tensors if key.startswith(f"layer{number}.")} for number in (1, 2, 3, 4)]
    return SpeakerNet(
        num_blocks=[len(blocks) for blocks in stages],
        channels=channels,
        base_width=width * 64 // channels,
        scale=sum(key.startswith("layer1.0.convs.") for key in tensors),
        expansion=tensors["layer1.0.conv3.weight"].shape[0] // channels,
        embedding_size=tensors["seg_1.weight"].shape[0],
    )
