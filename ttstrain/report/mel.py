"""Small pictures of mel spectrograms of any sound, all on one scale, so that they can be compared at a glance.

They are drawn from the sound itself, and so look alike for a recording, for every model and for every vocoder.
Legend: t samples, n frames, f frequency bins, m mel bands.
"""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from ttstrain.tracking.spectrogram import LOUD, QUIET, palette

Floats = npt.NDArray[np.float32]
BANDS = 56  # height in pixels
TOP_HZ = 11_000.0  # the pitch axis is the same at every rate; above a rate's half it stays dark
WINDOW_S = 0.05
COLOURS = 64
_SCALE = 250.0  # brings the sums of a 50 ms window near the level of the models' own mels


def draw(samples: Floats, sample_rate: int, *, width: int) -> bytes:
    """Return a PNG file of `width` x `BANDS` pixels: time goes right, pitch goes up, loud is bright."""
    mel = log_mel(samples, sample_rate, frames=width)  # (m, n)
    shares = np.clip((mel - QUIET) / (LOUD - QUIET), 0.0, 1.0)
    levels = np.round(shares * (COLOURS - 1)).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(levels[::-1]))
    image.putpalette(palette(COLOURS).tobytes())
    file = io.BytesIO()
    image.save(file, "png", optimize=True)
    return file.getvalue()


def log_mel(samples: Floats, sample_rate: int, *, frames: int) -> Floats:
    """Return log mels (m, n) of sound (t,), with as many frames as asked for, spread evenly over it."""
    window = max(16, int(WINDOW_S * sample_rate))
    padded = np.pad(samples.astype(np.float32), window // 2)
    starts = np.linspace(0, max(0, len(padded) - window), frames).astype(int)
    parts = padded[starts[:, None] + np.arange(window)] * np.hanning(window).astype(np.float32)  # (n, t)
    power = np.abs(np.fft.rfft(parts, axis=1)) / (window / _SCALE)  # (n, f)
    mel = _filters(sample_rate, window) @ power.T.astype(np.float32)  # (m, n)
    logs: Floats = np.log(np.maximum(mel, 1e-5)).astype(np.float32)
    return logs


@lru_cache(maxsize=8)
def _filters(sample_rate: int, window: int) -> Floats:
    """Return triangular filters (m, f), each of sum 1, evenly spaced on the mel scale of O'Shaughnessy."""
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + TOP_HZ / 700), BANDS + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(window, 1 / sample_rate)
    rise = (bins[None] - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins[None]) / (edges[2:] - edges[1:-1])[:, None]
    filters = np.maximum(0.0, np.minimum(rise, fall))
    narrow = filters.sum(axis=1) == 0  # narrower than a bin: take the nearest one
    filters[narrow, np.abs(bins[None] - edges[1:-1][narrow, None]).argmin(axis=1)] = 1.0
    filters[edges[1:-1] > sample_rate / 2] = 0.0
    sums = filters.sum(axis=1, keepdims=True)
    shares: Floats = (filters / np.where(sums == 0, 1.0, sums)).astype(np.float32)
    return shares
