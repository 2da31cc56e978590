"""Spectrograms at 32 kHz, always in fp32: half precision breaks them.

Legend: b clips, t samples, f frequency bins, m mel bins, n frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttstrain.families.gpt_sovits.config import HOP_LENGTH, SAMPLE_RATE
from ttstrain.families.gpt_sovits.vae.layers import length_mask
from ttstrain.modules.mel import FLOOR, mel_filter_bank

N_FFT = 2048
N_MELS = 128
PAD = (N_FFT - HOP_LENGTH) // 2  # 704
EPS = 1e-8  # under the root of the power


class Spectrograms(nn.Module):
    """Linear spectrograms and log-mels, numerically equal to upstream's; it holds nothing that is trained or saved."""

    window: Tensor
    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        filters = mel_filter_bank("bigvgan", n_fft=N_FFT, n_mels=N_MELS, sample_rate=SAMPLE_RATE)  # Slaney's
        self.register_buffer("window", torch.hann_window(N_FFT), persistent=False)
        self.register_buffer("filters", filters, persistent=False)  # (f, m)

    @torch.no_grad()
    def linear(self, wav: Tensor, lengths: Sequence[int], *, width: int) -> Tensor:
        """Return magnitudes (b, f, width) of clips wav (b, t), each mirrored at its own end and 0 after it.

        `lengths` are in samples; a clip has length // 640 frames.
        """
        padded = wav.new_zeros(len(wav), width * HOP_LENGTH + 2 * PAD, dtype=torch.float32)
        for row, clip, length in zip(padded, wav, lengths, strict=True):
            whole = _mirrored(clip[None, :length].float())[0]
            row[: len(whole)] = whole[: len(row)]
        frames = [length // HOP_LENGTH for length in lengths]
        return self._magnitude(padded) * length_mask(frames, width=width, device=wav.device, dtype=torch.float32)

    def mel_of_linear(self, spec: Tensor) -> Tensor:
        """Return log-mels (b, m, n) of magnitudes (b, f, n)."""
        with torch.autocast(spec.device.type, enabled=False):
            return (spec.float().mT @ self.filters).mT.clamp(min=FLOOR).log()

    def mel(self, wav: Tensor) -> Tensor:
        """Return log-mels (b, m, t // 640) of sound (b, t), mirrored at both ends."""
        with torch.autocast(wav.device.type, enabled=False):
            return self.mel_of_linear(self._magnitude(_mirrored(wav.float())))

    def _magnitude(self, padded: Tensor) -> Tensor:
        spectrum = torch.stft(
            padded, N_FFT, hop_length=HOP_LENGTH, window=self.window, center=False, return_complex=True
        )  # (b, f, n)
        return torch.view_as_real(spectrum).square().sum(-1).add(EPS).sqrt()


def _mirrored(wav: Tensor) -> Tensor:
    """Return wav (b, t + 2 * PAD), reflected at both ends."""
    return F.pad(wav[:, None], (PAD, PAD), mode="reflect")[:, 0]


def spectrogram(wav: Tensor) -> Tensor:
    """Return the magnitudes (1025, t // 640) of one recording (t,)."""
    return Spectrograms().to(wav.device).linear(wav[None], [len(wav)], width=len(wav) // HOP_LENGTH)[0]
