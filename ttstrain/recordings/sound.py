"""Long sound files: one channel at 16 kHz to listen to, and clips with exactly the samples of the source.

Shapes: t samples at the file's own rate, s samples at 16 kHz, c channels.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ttstrain.data import flac, riff
from ttstrain.data.audio import resampler
from ttstrain.data.decode import impossible_rate, promised, shortfall
from ttstrain.data.other_formats import what_it_is
from ttstrain.errors import DataError, first_line

RATE = 16_000  # Hz, of what is listened to
BLOCK_S = 60
CONTEXT_S = 1  # around a block, for the resampler's filter
CANCELLED = 0.3  # level of the channels' mean against the loudest channel
DEAD = 1e-4  # a level below which no channel counts as sound
CLIPPED_LEVEL = 0.999  # of the highest sample
FEWEST_CLIPPED = 3  # equal samples in a row at the limit: fewer are a loud peak

# What a clip of a file with this encoding is written as; anything else is decoded to float, and kept so.
_EXACT: dict[str, tuple[str, Literal["int16", "int32", "float32", "float64"]]] = {
    "PCM_16": ("PCM_16", "int16"),
    "PCM_24": ("PCM_24", "int32"),
    "PCM_32": ("PCM_32", "int32"),
    "PCM_U8": ("PCM_U8", "int16"),
    "PCM_S8": ("PCM_16", "int16"),
    "ULAW": ("PCM_16", "int16"),
    "ALAW": ("PCM_16", "int16"),
    "DOUBLE": ("DOUBLE", "float64"),
}
_IN_FLAC = ("PCM_16", "PCM_24")


@dataclass(frozen=True, slots=True)
class Listened:
    """A recording as it is listened to."""

    path: Path
    sample_rate: int  # Hz, of the file
    num_samples: int  # of the file
    encoding: str  # as libsndfile names it
    wav: Tensor  # (s,) at 16 kHz
    clipped: tuple[int, ...]  # seconds of the recording in which samples are cut off at the limit
    odd: str | None = None  # where its header contradicts itself or the file

    @property
    def duration_s(self) -> float:
        return self.num_samples / self.sample_rate


class Span(NamedTuple):
    """A part of a file, in its own samples."""

    start: int
    end: int


def listen(path: Path) -> Listened:
    """Read a file as one channel at 16 kHz.

    Raises DataError when it cannot be read, is cut short or damaged, or holds no usable samples.
    """
    import soundfile

    if not path.is_file():
        raise DataError(f"`{path}` cannot be read: it is gone, or no ordinary file")
    try:
        if fault := riff.check_riff(path):
            raise _damaged(path, fault.why)
        with _opened(path) as file:
            rate, encoding = int(file.samplerate), str(file.subtype)
            if why := impossible_rate(rate):
                raise _damaged(path, why)
            summed = flac.running_sum(path, container=file.format, encoding=encoding)
            blocks, clipped, total = _resampled(file, rate, summed)
            why = shortfall(file.format, rate, promised=promised(file), there=total)
        if why or (summed is not None and summed.differs):
            raise _damaged(path, why or "its samples are not those that were encoded: their checksum differs")
        odd = riff.contradiction(path) or flac.contradiction(path)
    except (soundfile.LibsndfileError, ValueError) as error:
        why = what_it_is(path) or f"it cannot be decoded ({first_line(error)})"
        raise DataError(f"`{path}` cannot be used: {why}", hint="convert it to WAV or FLAC, or take it out") from error
    except OSError as error:
        raise DataError(f"`{path}` cannot be read: {error.strerror or error}") from error
    if not total:
        raise DataError(f"`{path}` cannot be used: it holds no samples", hint="take it out of the folder")
    return Listened(path, rate, total, encoding, torch.cat(blocks), tuple(clipped), odd)


def _damaged(path: Path, why: str) -> DataError:
    return DataError(f"`{path}` is damaged: {why}", hint="copy it again, or convert it again from its source")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a sound file, whatever bytes its name holds: soundfile itself takes only names that are Unicode."""
    import soundfile

    with path.open("rb") as raw, soundfile.SoundFile(raw.fileno(), closefd=False) as file:
        yield file


def _resampled(file: Any, rate: int, summed: flac.RunningSum | None) -> tuple[list[Tensor], list[int], int]:
    """Return blocks at 16 kHz, the seconds with clipping, and the number of samples at the file's own rate."""
    held = torch.zeros(0)  # what the filter sees before the next block
    parts: list[Tensor] = []
    clipped: list[int] = []
    total = 0
    ahead = _mono_blocks(file, rate, summed)
    current = next(ahead, None)
    while current is not None:
        mono, seconds = current
        following = next(ahead, None)
        after = following[0][: CONTEXT_S * rate] if following is not None else torch.zeros(0)
        clipped += [total // rate + second for second in seconds]
        total += len(mono)
        around = torch.cat([held, mono, after])
        resampled = around if rate == RATE else resampler(rate, RATE)(around)
        start = len(held) * RATE // rate
        parts.append(resampled[start : start + -(-len(mono) * RATE // rate)])
        held = mono[-CONTEXT_S * rate :]
        current = following
    return parts, clipped, total


def _mono_blocks(file: Any, rate: int, summed: flac.RunningSum | None) -> Iterator[tuple[Tensor, list[int]]]:
    """Yield one channel (t,) of whole seconds, and which of them hold clipping."""
    while len(block := file.read(BLOCK_S * rate, dtype="float32", always_2d=True)):
        if summed is not None:
            summed.add(block)
        if not np.isfinite(block).all():
            raise ValueError("some samples are NaN or infinite")
        seconds = [
            i for i in range(-(-len(block) // rate)) if _is_clipped(block[i * rate : (i + 1) * rate])
        ]  # fmt: skip
        yield torch.from_numpy(_one_channel(block)), seconds


def _one_channel(block: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the mean of the channels (t,), or the loudest where they cancel each other."""
    mean = block.mean(axis=1)
    levels = block.std(axis=0)
    loudest = int(levels.argmax())
    cancel = levels[loudest] > DEAD and mean.std() < CANCELLED * levels[loudest]
    return np.ascontiguousarray(block[:, loudest] if cancel else mean)


def _is_clipped(block: np.ndarray[Any, np.dtype[np.float32]]) -> bool:
    """Tell whether samples stand at full scale in a row."""
    at_limit = (np.abs(block) >= CLIPPED_LEVEL).astype(np.int8)  # (t, c)
    runs = sum(at_limit[i : len(at_limit) - FEWEST_CLIPPED + 1 + i] for i in range(FEWEST_CLIPPED))
    return bool(np.any(runs == FEWEST_CLIPPED)) if len(at_limit) >= FEWEST_CLIPPED else False


# ---------------------------------------------------------------- clips


def clip_ending(path: Path) -> str:
    """Return the ending of the files that a recording's clips are written to: `.wav` or `.flac`."""
    with _opened(path) as file:
        subtype, _ = _EXACT.get(file.subtype, ("FLOAT", "float32"))
        return ".wav" if subtype not in _IN_FLAC or file.format in ("WAV", "WAVEX", "RF64", "W64") else ".flac"


def write_clips(path: Path, spans: Sequence[Span], files: Sequence[Path]) -> None:
    """Write parts of a file to files of their own, sample for sample: channels, rate and values stay as they are.

    `spans` are in order and do not overlap. The source is read from its beginning to its end, since seeking is not
    exact in every format. Values of compressed formats are written as decoded, in 32-bit float. Raises DataError where
    it cannot be read.
    """
    import soundfile

    try:
        _write_spans(path, spans, files)
    except soundfile.LibsndfileError as error:
        raise DataError(f"`{path}` cannot be cut: it cannot be decoded again ({first_line(error)})") from error


def _write_spans(path: Path, spans: Sequence[Span], files: Sequence[Path]) -> None:
    with _opened(path) as file:
        subtype, dtype = _EXACT.get(file.subtype, ("FLOAT", "float32"))
        at = 0
        for span, target in zip(spans, files, strict=True):
            _skip(file, span.start - at, dtype)
            samples = file.read(span.end - span.start, dtype=dtype, always_2d=True)
            if len(samples) != span.end - span.start:
                raise DataError(f"`{path}` ends before its length at first reading", hint="do not change it meanwhile")
            at = span.end
            _write(target, samples, int(file.samplerate), subtype)


def _skip(file: Any, count: int, dtype: str) -> None:
    while count > 0:
        got = len(file.read(min(count, 1 << 20), dtype=dtype, always_2d=True))
        if not got:
            return
        count -= got


def _write(target: Path, samples: Any, rate: int, subtype: str) -> None:
    import soundfile

    partial = target.with_name(f".{target.name}.part")
    kind = "WAV" if target.suffix == ".wav" else "FLAC"
    try:
        form = {"samplerate": rate, "channels": samples.shape[1], "format": kind, "subtype": subtype}
        with partial.open("w+b") as raw, soundfile.SoundFile(raw.fileno(), "w", **form, closefd=False) as file:
            file.write(samples)
        partial.replace(target)
    except soundfile.LibsndfileError as error:
        raise OSError(errno.EIO, f"it cannot be written ({first_line(error)})", str(target)) from error
    finally:
        partial.unlink(missing_ok=True)
