"""Where a recording is silent, as upstream's inference finds it with pydub: in whole milliseconds, by windowed RMS.

Legend: t samples. A range is (start, end) in milliseconds.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

Range = tuple[int, int]

SEEK_MS = 10


def length_ms(wav: Tensor, rate: int) -> int:
    """Return the length of a waveform (t,)."""
    return round(1000 * len(wav) / rate)


def cut_ms(wav: Tensor, rate: int, start: int, end: int) -> Tensor:
    """Return the samples from `start` to `end`."""
    return wav[int(start * rate / 1000) : int(end * rate / 1000)]


def silent_ranges(wav: Tensor, rate: int, *, at_least_ms: int, threshold_db: float) -> list[Range]:
    """Return stretches whose RMS stays at or below the threshold (dBFS) in every window of `at_least_ms`."""
    total = length_ms(wav, rate)
    if total < at_least_ms:
        return []
    last = total - at_least_ms
    starts = list(range(0, last + 1, SEEK_MS))
    if last % SEEK_MS:
        starts.append(last)
    energy = torch.cat([wav.new_zeros(1, dtype=torch.float64), wav.double().square().cumsum(0)])
    # pydub puts zeros after a recording that ends within its last millisecond.
    begin = torch.tensor([int(start * rate / 1000) for start in starts])
    end = torch.tensor([min(int((start + at_least_ms) * rate / 1000), len(wav)) for start in starts])
    rms = ((energy[end] - energy[begin]).clamp(min=0) / (end - begin).clamp(min=1)).sqrt()
    quiet = [start for start, level in zip(starts, rms.tolist(), strict=True) if level <= 10 ** (threshold_db / 20)]
    ranges: list[Range] = []
    for previous, start in pairwise([None, *quiet]):
        assert start is not None
        if previous is None or (start != previous + SEEK_MS and start > previous + at_least_ms):
            ranges.append((start, start + at_least_ms))
        else:
            ranges[-1] = (ranges[-1][0], start + at_least_ms)
    return ranges


def sounding_ranges(total_ms: int, silent: list[Range]) -> list[Range]:
    """Return what lies between the silent ranges; nothing when all is silent."""
    edges = [0, *(edge for pair in silent for edge in pair), total_ms]
    return [(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True) if end > start]


def split(wav: Tensor, rate: int, *, at_least_ms: int, threshold_db: float, keep_ms: int) -> list[Range]:
    """Return the sounding ranges, each with up to `keep_ms` of the silence around it; a shared silence is halved."""
    total = length_ms(wav, rate)
    silent = silent_ranges(wav, rate, at_least_ms=at_least_ms, threshold_db=threshold_db)
    kept = [[start - keep_ms, end + keep_ms] for start, end in sounding_ranges(total, silent)]
    for first, second in pairwise(kept):
        if second[0] < first[1]:
            first[1] = (first[1] + second[0]) // 2
            second[0] = first[1]
    return [(max(start, 0), min(end, total)) for start, end in kept]


def trim(wav: Tensor, rate: int, *, threshold_db: float) -> Tensor:
    """Cut off both edges in steps of 10 ms while their RMS is below the threshold (dBFS)."""
    start = _leading_ms(wav, rate, threshold_db)
    wav = cut_ms(wav, rate, start, length_ms(wav, rate))
    end = _leading_ms(wav.flip(0), rate, threshold_db)
    return cut_ms(wav, rate, 0, length_ms(wav, rate) - end) if end else wav


def _leading_ms(wav: Tensor, rate: int, threshold_db: float) -> int:
    total, start = length_ms(wav, rate), 0
    limit = 10 ** (threshold_db / 20)
    while start < total:
        window = cut_ms(wav, rate, start, min(start + SEEK_MS, total))
        if len(window) and float(window.square().mean().sqrt()) >= limit:
            break
        start += SEEK_MS
    return min(start, total)
