"""Convert samples that a table stores as numbers to a sound file. Shapes: t samples, c channels."""

from __future__ import annotations

import io
from typing import Any

MOST_RATE = 1_000_000  # Hz
WIDEST = 64  # channels of a recording
MOST_CHANNELS = 8  # the shorter side of two dimensions is the channels'
INT16_RANGE = 1 << 15


def wav_of(samples: Any, sample_rate: Any) -> bytes | str:
    """Return a WAV file of (t,), (t, c) or (c, t) samples in -1 to 1, or in 16 bits; or what is wrong with them."""
    import numpy as np
    import soundfile

    if type(sample_rate) is not int or not 0 < sample_rate <= MOST_RATE:
        return f"the audio column's samples have no `sampling_rate` but {sample_rate!r}"
    try:
        array = np.asarray(samples)
    except ValueError:
        return "the audio column's samples are lists of different lengths"
    if array.ndim == 2 and array.shape[0] <= MOST_CHANNELS < array.shape[1]:
        array = array.T
    channels = array.shape[1] if array.ndim == 2 else 1
    if array.ndim not in (1, 2) or channels > WIDEST or array.dtype.kind not in "fiu" or not array.size:
        return f"the audio column's samples are no sound: {array.dtype} of shape {array.shape}"
    file = io.BytesIO()
    if array.dtype.kind == "f":
        soundfile.write(file, array.astype(np.float32), sample_rate, format="WAV", subtype="FLOAT")
    elif array.min() >= -INT16_RANGE and array.max() < INT16_RANGE:
        soundfile.write(file, array.astype(np.int16), sample_rate, format="WAV", subtype="PCM_16")
    else:
        return "the audio column's samples are whole numbers beyond 16 bits"
    return file.getvalue()
