"""Pictures of mel spectrograms, without a plotting library.

Shapes: n frames, m mel bands, h and w pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

# Fixed, so that pictures of one run can be compared. The floor of log mels is log(1e-5) = -11.5; speech peaks near 2.
QUIET, LOUD = -11.5, 2.0
MAX_WIDTH = 1600  # pixels; longer utterances are averaged over neighbouring frames
PIXELS = 2  # height of a mel band and width of a frame

# From dark violet over teal to yellow: equal steps look equal, in grey and to colour-blind eyes too. In the manner of
# matplotlib's viridis, a few points of which (public domain) are joined by straight lines.
_COLOURS = (0x440154, 0x472D7B, 0x3B528B, 0x2C728E, 0x21918C, 0x28AE80, 0x5EC962, 0xADDC30, 0xFDE725)


def picture(mel: Tensor) -> npt.NDArray[np.uint8]:
    """Draw log mels (n, m) as an RGB picture (h, w, 3): time goes right, pitch goes up, loud is bright."""
    rgb: npt.NDArray[np.uint8] = palette()[_levels(mel)]
    return rgb


def write(path: Path, mel: Tensor) -> None:
    """Write the picture of log mels (n, m) as a PNG file of 256 colours."""
    image = Image.fromarray(_levels(mel))
    image.putpalette(palette().tobytes())
    image.save(path, "png")


def _levels(mel: Tensor) -> npt.NDArray[np.uint8]:
    """Return the loudness of each pixel (h, w), 0 to 255."""
    values = mel.detach().cpu().float().numpy()  # (n, m)
    values = _narrow(values, columns=MAX_WIDTH // PIXELS)
    loudness = np.nan_to_num((values - QUIET) / (LOUD - QUIET), nan=0.0).clip(0.0, 1.0)
    levels = np.round(loudness * 255).astype(np.uint8)  # (n, m)
    pixels: npt.NDArray[np.uint8] = levels.T[::-1].repeat(PIXELS, axis=0).repeat(PIXELS, axis=1)
    return pixels


def _narrow(values: npt.NDArray[Any], *, columns: int) -> npt.NDArray[Any]:
    """Average neighbouring frames until at most `columns` are left."""
    every = -(-len(values) // columns)
    if every <= 1:
        return values
    padded = np.pad(values, ((0, -len(values) % every), (0, 0)), mode="edge")
    mean: npt.NDArray[Any] = padded.reshape(-1, every, values.shape[1]).mean(axis=1)
    return mean


def palette(colours: int = 256) -> npt.NDArray[np.uint8]:
    """Return so many colours (colours, 3) from quiet to loud."""
    points = np.array([[colour >> 16, colour >> 8 & 255, colour & 255] for colour in _COLOURS], dtype=float)
    places = np.linspace(0, colours - 1, len(points))
    channels = [np.interp(np.arange(colours), places, points[:, channel]) for channel in range(3)]
    found: npt.NDArray[np.uint8] = np.stack(channels, axis=1).round().astype(np.uint8)
    return found
