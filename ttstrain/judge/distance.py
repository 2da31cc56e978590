"""Mel-cepstral distortion between two recordings of a sentence, along their best alignment.

The arithmetic is that of the package mel-cepstral-distance 0.0.4 with its defaults at 16 kHz (Kubichek 1993,
"Mel-cepstral distance measure for objective speech quality assessment"), so that figures compare. Its first
coefficient is left out and so is the one after, as there. Alignment is exact, as there with `dtw_radius=None`.
The figure is given in dB: the package's number times 10 sqrt(2) / 20, which is the root mean square over the 20 mel
bands of the difference in level that the kept coefficients describe.

Legend: t samples, n frames, m mel bins, c coefficients.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor

from ttstrain.contract.task import Audio
from ttstrain.judge.alignment import cheapest_path
from ttstrain.judge.waveform import RATE, at_rate, without_edges

WINDOW, HOP = 512, 128  # 32 and 8 ms
N_MELS = 20
FIRST, LAST = 1, 16  # of the coefficients, counted from 0, the last one excluded
DB = 10 * math.sqrt(2) / N_MELS
SHORTEST_S = 0.1


def cepstral_distance(a: Audio, b: Audio) -> float | None:
    """Return the distortion in dB, silence at the edges left out; None with less than 0.1 s of speech."""
    first, second = spectrum(a), spectrum(b)
    return None if first is None or second is None else distortion(first, second)


def spectrum(audio: Audio) -> Tensor | None:
    """Return the log mel spectrum (n, m) of a clip's speech; None with less than 0.1 s of it."""
    return log_mel(without_edges(at_rate(audio)))


def distortion(a: Tensor, b: Tensor) -> float:
    """Return the distortion in dB of two log mel spectra (n, m)."""
    return package_distance(a, b) * DB


def package_distance(a: Tensor, b: Tensor) -> float:
    """Return the distance of two log mel spectra (n, m), as mel-cepstral-distance counts it."""
    shorter, longer = (a, b) if len(a) <= len(b) else (b, a)  # the alignment's memory grows with the first one's square
    rows, columns = cheapest_path(shorter, longer)
    difference = (shorter[rows] - longer[columns]) @ _cosines()  # (steps, c)
    return float(difference.norm(dim=1).mean())


def log_mel(wav: Tensor) -> Tensor | None:
    """Return log10 mel energies (n, m) of a waveform at 16 kHz, scaled to a peak of 1."""
    peak = wav.abs().max() if len(wav) else torch.tensor(0.0)
    if len(wav) < SHORTEST_S * RATE or peak == 0:
        return None
    frames = (wav.double() / peak)[: len(wav) - 1].unfold(0, WINDOW, HOP)  # (n, WINDOW); a frame never ends at the end
    energy: Tensor = torch.fft.rfft(frames * torch.from_numpy(np.hanning(WINDOW))).abs().square()
    mel: Tensor = energy @ _filters()
    return (mel + np.finfo(float).eps).log10()


@functools.cache
def _cosines() -> Tensor:
    """Return the cosine basis (m, c) of the coefficients that count."""
    number = torch.arange(1, N_MELS + 1, dtype=torch.float64)
    return torch.cos(number[:, None] * (number - 0.5) * math.pi / N_MELS)[FIRST:LAST].T


@functools.cache
def _filters() -> Tensor:
    """Return triangles (f, m) whose corners are whole bins, evenly spaced on the HTK mel scale."""
    mels = torch.linspace(0, 2595 * math.log10(1 + RATE / 2 / 700), N_MELS + 2, dtype=torch.float64)
    corners = ((WINDOW + 1) * 700 * (10 ** (mels / 2595) - 1) / RATE).floor().long().tolist()
    bins = torch.arange(WINDOW // 2 + 1, dtype=torch.float64)
    filters = torch.zeros(len(bins), N_MELS, dtype=torch.float64)
    triples = zip(corners, corners[1:], corners[2:], strict=False)  # not strict: the last two corners begin no triangle
    for number, (left, centre, right) in enumerate(triples):
        filters[left:centre, number] = (bins[left:centre] - left) / (centre - left)
        filters[centre:right, number] = (right - bins[centre:right]) / (right - centre)
    return filters
