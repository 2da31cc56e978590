"""Decode sound files, and apply the treatment that the audit chose. No torch. Shapes: t samples, c channels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ttstrain.contract.data import Treatment
from ttstrain.data.shards import opened

Samples = npt.NDArray[np.float32]

BLOCK_FRAMES = 1 << 19
RATES = (4_000, 384_000)  # Hz
RESAMPLED_TO = 32_000  # Hz; from a rate that resamples to this one, others that nets hear are near
MOST_FILTER = 1 << 25  # numbers of a resampler's filter, 128 MiB: a rate in whole tens of Hz takes less


@dataclass(frozen=True, slots=True)
class Decoded:
    """The content of a sound file."""

    samples: Samples  # (t, c)
    sample_rate: int  # Hz
    container: str  # as libsndfile names it: WAV, FLAC, OGG, MP3 ...
    encoding: str  # PCM_16, VORBIS ...
    promised_frames: int  # what the header says; -1 where it says nothing
    complete: bool  # False: decoding stopped at `max_s`


def decode(path: Path, *, max_s: float | None = None) -> Decoded:
    """Decode a file, at most `max_s` seconds of it. Memory grows with what is decoded, not with the header's length.

    Raises soundfile.LibsndfileError when it cannot be decoded, OSError when it cannot be read.
    """
    import soundfile

    with opened(path) as raw, soundfile.SoundFile(_seen_by_libsndfile(raw), closefd=False) as file:
        limit = None if max_s is None else int(max_s * max(1, file.samplerate))
        blocks: list[Samples] = []
        frames = 0
        while limit is None or frames <= limit:
            block: Samples = file.read(BLOCK_FRAMES, dtype="float32", always_2d=True)
            if not len(block):
                break
            blocks.append(block)
            frames += len(block)
        return Decoded(
            samples=np.concatenate(blocks) if blocks else np.zeros((0, file.channels), np.float32),
            sample_rate=file.samplerate,
            container=file.format,
            encoding=file.subtype,
            promised_frames=promised(file),
            complete=limit is None or frames <= limit,
        )


def _seen_by_libsndfile(raw: BinaryIO) -> Any:
    """Return a file's number, by which libsndfile reads itself; what lies in memory has none."""
    try:
        return raw.fileno()
    except OSError:
        return raw


def promised(file: Any) -> int:
    """Return how many frames the header of an opened file promises; -1 where it says nothing."""
    unknown = 0x7FFFFFFF  # libsndfile's value for an unknown length, as in a stream
    return -1 if file.frames >= unknown else int(file.frames)


def shortfall(container: str, rate: int, *, promised: int, there: int) -> str | None:
    """Say how much of what a header promised was not there, in frames at `rate` Hz; None if it was all there."""
    estimated = container in ("MP3", "MPEG")  # whose header counts whole packets, padding included
    if promised - there <= (0.2 * rate if estimated else 0):
        return None
    return f"its header says {promised / rate:.2f} s, only {there / rate:.2f} s are there"


def impossible_rate(rate: int) -> str | None:
    """Say what is wrong with a rate, in Hz, at which no voice is recorded, or from which resampling takes gigabytes."""
    filter_size = rate * RESAMPLED_TO // math.gcd(rate, RESAMPLED_TO) ** 2
    if RATES[0] <= rate <= RATES[1] and filter_size <= MOST_FILTER:
        return None
    return f"its header says {rate} samples a second"


def treat(samples: Samples, treatment: Treatment) -> Samples:
    """Turn decoded channels (t, c) into the one channel (n,) to train on."""
    part = samples[treatment.start : treatment.end]
    mono = part.mean(axis=1) if treatment.channel == "mean" else part[:, treatment.channel]
    if treatment.offset:
        mono = mono - np.float32(treatment.offset)
    if treatment.gain != 1.0:
        mono = mono * np.float32(treatment.gain)
    return np.ascontiguousarray(mono, dtype=np.float32)
