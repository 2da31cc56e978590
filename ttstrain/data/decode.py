"""Decode sound files, and apply the treatment that the audit chose. No torch. Shapes: t samples, c channels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ttstrain.contract.data import Treatment

Samples = npt.NDArray[np.float32]

BLOCK_FRAMES = 1 << 19


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

    with path.open("rb") as raw, soundfile.SoundFile(raw.fileno(), closefd=False) as file:
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
            promised_frames=_promise(file),
            complete=limit is None or frames <= limit,
        )


def _promise(file: Any) -> int:
    unknown = 0x7FFFFFFF  # libsndfile's value for an unknown length, as in a stream
    return -1 if file.frames >= unknown else int(file.frames)


def treat(samples: Samples, treatment: Treatment) -> Samples:
    """Turn decoded channels (t, c) into the one channel (n,) to train on."""
    part = samples[treatment.start : treatment.end]
    mono = part.mean(axis=1) if treatment.channel == "mean" else part[:, treatment.channel]
    if treatment.offset:
        mono = mono - np.float32(treatment.offset)
    if treatment.gain != 1.0:
        mono = mono * np.float32(treatment.gain)
    return np.ascontiguousarray(mono, dtype=np.float32)
