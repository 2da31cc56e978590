"""Vocos: a waveform from a log-mel through ConvNeXt blocks and one inverse Fourier transform. Inference only.

Names of modules are those of `vocos-mel-24khz`, so that its state dict loads as it is. Siuzdak 2023, arXiv 2306.00814.

Legend: b clips, m mel bins, n frames, d width, f frequency bins, t samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttstrain.modules.mel import MelSpectrogram

LARGEST_MAGNITUDE = 1e2  # upstream's guard against exploding exponentials
NORM_EPS = 1e-6


@dataclass(frozen=True, slots=True)
class VocosConfig:
    """The numbers in `config.yaml`."""

    n_mels: int
    dim: int
    intermediate_dim: int
    num_layers: int
    n_fft: int
    hop_length: int
    sample_rate: int


class Vocos(nn.Module):
    """Turn a log-mel with centred frames into a waveform."""

    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        self.feature_extractor = _FeatureExtractor(config)
        self.backbone = _Backbone(config)
        self.head = _Head(config)

    def forward(self, mel: Tensor) -> Tensor:
        """Return waveforms (b, t) of log-mels (b, m, n), where t is `hop_length` (n - 1), at least one hop."""
        if mel.shape[-1] == 1:  # one centred frame spans no time
            mel = mel.expand(-1, -1, 2)
        wav: Tensor = self.head(self.backbone(mel))
        return wav


class _FeatureExtractor(nn.Module):
    """The mel that the net was trained on: never called, kept because its tensors are in the file."""

    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        with torch.device("cpu"):  # also where the net is only outlined: the filters' values are looked at
            mel = MelSpectrogram(
                "vocos",
                sample_rate=config.sample_rate,
                n_fft=config.n_fft,
                hop_length=config.hop_length,
                n_mels=config.n_mels,
            )
        self.mel_spec = nn.Module()
        self.mel_spec.spectrogram = nn.Module()
        self.mel_spec.spectrogram.register_buffer("window", mel.window)
        self.mel_spec.mel_scale = nn.Module()
        self.mel_spec.mel_scale.register_buffer("fb", mel.filters)


class _Backbone(nn.Module):
    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        self.embed = nn.Conv1d(config.n_mels, config.dim, kernel_size=7, padding=3)
        self.norm = nn.LayerNorm(config.dim, eps=NORM_EPS)
        self.convnext = nn.ModuleList(_Block(config) for _ in range(config.num_layers))
        self.final_layer_norm = nn.LayerNorm(config.dim, eps=NORM_EPS)

    def forward(self, mel: Tensor) -> Tensor:
        x = self.norm(self.embed(mel).transpose(1, 2)).transpose(1, 2)  # (b, d, n)
        for block in self.convnext:
            x = block(x)
        out: Tensor = self.final_layer_norm(x.transpose(1, 2))  # (b, n, d)
        return out


class _Block(nn.Module):
    """A ConvNeXt block with layer scale."""

    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(config.dim, config.dim, kernel_size=7, padding=3, groups=config.dim)
        self.norm = nn.LayerNorm(config.dim, eps=NORM_EPS)
        self.pwconv1 = nn.Linear(config.dim, config.intermediate_dim)
        self.pwconv2 = nn.Linear(config.intermediate_dim, config.dim)
        self.gamma = nn.Parameter(torch.full((config.dim,), 1 / config.num_layers))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm(self.dwconv(x).transpose(1, 2))  # (b, n, d)
        inner = self.gamma * self.pwconv2(F.gelu(self.pwconv1(inner)))
        out: Tensor = x + inner.transpose(1, 2)
        return out


class _Head(nn.Module):
    """Predict log magnitude and phase of each frame and overlap-add them."""

    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        self.n_fft = config.n_fft
        self.out = nn.Linear(config.dim, config.n_fft + 2)
        self.istft = _Istft(config)

    def forward(self, x: Tensor) -> Tensor:
        log_magnitude, phase = self.out(x).transpose(1, 2).chunk(2, dim=1)  # (b, f, n)
        magnitude = log_magnitude.exp().clamp(max=LARGEST_MAGNITUDE)
        wav: Tensor = self.istft(torch.polar(magnitude, phase))
        return wav


class _Istft(nn.Module):
    window: Tensor

    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        self.hop_length = config.hop_length
        self.register_buffer("window", torch.hann_window(config.n_fft))

    def forward(self, spectrum: Tensor) -> Tensor:
        return torch.istft(spectrum, len(self.window), self.hop_length, window=self.window, center=True)
