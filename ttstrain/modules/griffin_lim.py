"""Griffin-Lim: from a mel to a waveform without a trained vocoder, for previews.

Phases are estimated iteratively, so speech is intelligible but sounds metallic. A trained vocoder sounds better.

Legend: m mel bins, f frequency bins, n frames.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ttstrain.modules.mel import MelKind, mel_filter_bank


def griffin_lim(
    log_mel: Tensor,
    *,
    kind: MelKind,
    sample_rate: int = 24_000,
    n_fft: int = 1024,
    hop_length: int = 256,
    iterations: int = 32,
    momentum: float = 0.99,
) -> Tensor:
    """Return a waveform (t,) on the CPU whose mel has the n frames of `log_mel` (n, m); the same every time."""
    mel = log_mel.detach().float().cpu().exp()
    filters = mel_filter_bank(kind, n_fft=n_fft, n_mels=mel.shape[1], sample_rate=sample_rate)
    magnitude = invert_filters(mel, filters).T  # (f, n)
    window = torch.hann_window(n_fft)
    generator = torch.Generator().manual_seed(0)
    angles = torch.polar(torch.ones_like(magnitude), 2 * torch.pi * torch.rand(magnitude.shape, generator=generator))
    previous = torch.zeros_like(angles)
    length = max(1, len(mel) - 1) * hop_length
    for _ in range(iterations):
        wav = torch.istft(magnitude * angles, n_fft, hop_length, window=window, length=length)
        rebuilt = torch.stft(wav, n_fft, hop_length, window=window, return_complex=True)[:, : len(mel)]  # (f, n)
        # Fast Griffin-Lim (Perraudin, Balazs, Sondergaard 2013), as torchaudio scales its momentum.
        angles = rebuilt - momentum / (1 + momentum) * previous
        angles = angles / angles.abs().clamp(min=1e-16)
        previous = rebuilt
    wav = torch.istft(magnitude * angles, n_fft, hop_length, window=window, length=length)
    # BigVGAN's first frame is centred half a hop into the waveform, that of Vocos on its first sample.
    return wav if kind == "vocos" else F.pad(wav, (hop_length // 2, hop_length - hop_length // 2))


def invert_filters(mel: Tensor, filters: Tensor, *, iterations: int = 20) -> Tensor:
    """Find non-negative magnitudes (n, f) whose mel is near `mel` (n, m), by multiplicative updates."""
    coverage = filters.sum(1).clamp(min=1e-8)
    magnitude = (mel @ filters.T) / coverage + 1e-8
    wanted = mel @ filters.T
    gram = filters @ filters.T
    for _ in range(iterations):
        magnitude = magnitude * wanted / (magnitude @ gram).clamp(min=1e-12)
    return magnitude
