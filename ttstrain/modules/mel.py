"""Log-mel spectrograms as the 24 kHz vocoders Vocos and BigVGAN v2 were trained on.

Legend: b clips, t samples, f frequency bins, m mel bins, n frames.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor, nn

MelKind = Literal["vocos", "bigvgan"]

FLOOR = 1e-5  # of a mel bin, before the logarithm


def mel_filter_bank(kind: MelKind, *, n_fft: int, n_mels: int, sample_rate: int) -> Tensor:
    """Return triangular filters (f, m): HTK scale without normalization for Vocos, Slaney's for BigVGAN.

    Each follows the arithmetic of the library its vocoder was trained with: torchaudio in float32, librosa in float64.
    """
    if kind == "vocos":
        filters: Tensor = torchaudio.functional.melscale_fbanks(
            n_fft // 2 + 1, f_min=0.0, f_max=sample_rate / 2, n_mels=n_mels, sample_rate=sample_rate
        )
        return filters
    bins = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    edges = _slaney_frequencies(n_mels + 2, highest=sample_rate / 2)  # (m + 2,) left, centre and right of each filter
    widths = edges.diff()
    distance = edges - bins[:, None]  # (f, m + 2)
    rising = -distance[:, :-2] / widths[:-1]
    falling = distance[:, 2:] / widths[1:]
    triangles = torch.minimum(rising, falling).clamp(min=0)
    return (triangles * 2 / (edges[2:] - edges[:-2])).float()


def _slaney_frequencies(number: int, *, highest: float) -> Tensor:
    """Space frequencies evenly on Slaney's mel scale: linear up to 1 kHz (mel 15), logarithmic above."""
    hz_per_mel = 200 / 3
    mels_per_e = 27 / math.log(6.4)
    mels = torch.linspace(0, 15 + mels_per_e * math.log(highest / 1000), number, dtype=torch.float64)
    return torch.where(mels < 15, mels * hz_per_mel, 1000 * torch.exp((mels - 15) / mels_per_e))


class MelSpectrogram(nn.Module):
    """Natural-log magnitude mel of a waveform, numerically equal to upstream F5-TTS."""

    window: Tensor
    filters: Tensor

    def __init__(
        self,
        kind: MelKind,
        *,
        sample_rate: int = 24_000,
        n_fft: int = 1024,
        hop_length: int = 256,
        n_mels: int = 100,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.n_fft = n_fft
        self.hop_length = hop_length
        filters = mel_filter_bank(kind, n_fft=n_fft, n_mels=n_mels, sample_rate=sample_rate)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, wav: Tensor) -> Tensor:
        """Return log mels (b, m, n) of waveforms (b, t)."""
        centred = self.kind == "vocos"
        if not centred:
            pad = (self.n_fft - self.hop_length) // 2
            wav = F.pad(wav[:, None], (pad, pad), mode="reflect")[:, 0]
        spectrum = torch.stft(
            wav,
            self.n_fft,
            hop_length=self.hop_length,
            window=self.window,
            center=centred,
            pad_mode="reflect",
            return_complex=True,
        )  # (b, f, n)
        magnitude = spectrum.abs() if centred else torch.view_as_real(spectrum).square().sum(-1).add(1e-9).sqrt()
        mel = torch.matmul(magnitude.transpose(1, 2), self.filters).transpose(1, 2)  # (b, m, n)
        return mel.clamp(min=FLOOR).log()
