"""Where to cut a recording into clips: at its pauses, the longest first, into clips of the wanted lengths.

All cuts of a recording are chosen together, by dynamic programming over its pauses: a pause inside a clip costs more
the longer it is, a cut costs more the shorter its pause is, and clips outside the wanted lengths cost most. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Levels = npt.NDArray[np.float32]

LEVEL_S = 0.01  # of one level
SHORT_PAUSE_S = 0.2  # shorter ones may be the closure of a stop: cutting there costs more
SHORT_PAUSE_COST = 4.0
TOO_SHORT_COST = 6.0
SMOOTHED = 5  # levels: 50 ms
SEARCHED = 0.5  # share of a stretch without pauses, around its middle, in which the quietest place is looked for


@dataclass(frozen=True, slots=True)
class Wanted:
    """What clips should be like, in seconds."""

    shortest_s: float
    longest_s: float
    pause_s: float  # a longer pause divides clips, a shorter one stays inside, where lengths allow both
    margin_s: float  # of the pause that stays before a clip's speech; half of it stays after


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a recording that becomes a clip, in seconds."""

    start_s: float
    end_s: float
    speech_s: float  # of it
    forced: bool = False  # whether it begins or ends without a pause

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True)
class _Speech:
    start_s: float
    end_s: float
    cut_before: bool = False  # whether it was cut from what comes before it, without a pause


def cut(speech: Sequence[tuple[float, float]], levels: Levels, *, wanted: Wanted, end_s: float) -> list[Part]:
    """Divide stretches of speech (start, end) into parts.

    `levels`: in dB, one every 10 ms, for stretches that are too long and have no pause; `end_s`: the recording's end.
    """
    pieces = [piece for start, end in speech for piece in _divided(_Speech(start, end), levels, wanted.longest_s)]
    groups = _grouped(pieces, wanted)
    edges = [_edges(pieces, first, last, margin=wanted.margin_s, end_s=end_s) for first, last in groups]
    return [
        Part(
            start_s=start,
            end_s=end,
            speech_s=sum(piece.end_s - piece.start_s for piece in pieces[first : last + 1]),
            forced=pieces[first].cut_before or (last + 1 < len(pieces) and pieces[last + 1].cut_before),
        )
        for (first, last), (start, end) in zip(groups, edges, strict=True)
    ]


def _divided(speech: _Speech, levels: Levels, longest_s: float) -> list[_Speech]:
    """Divide a stretch that is longer than a clip may be where it is quietest around its middle, and so on."""
    duration = speech.end_s - speech.start_s
    if duration <= longest_s:
        return [speech]
    around = (1 - SEARCHED) / 2 * duration
    first, last = (round(second / LEVEL_S) for second in (speech.start_s + around, speech.end_s - around))
    smooth = np.convolve(levels[first:last], np.ones(SMOOTHED) / SMOOTHED, mode="same")
    where = (first + int(smooth.argmin()) + 0.5) * LEVEL_S if len(smooth) else speech.start_s + duration / 2
    before = _Speech(speech.start_s, where, speech.cut_before)
    after = _Speech(where, speech.end_s, cut_before=True)
    return [*_divided(before, levels, longest_s), *_divided(after, levels, longest_s)]


def _grouped(pieces: Sequence[_Speech], wanted: Wanted) -> list[tuple[int, int]]:
    """Choose the groups (first, last) of pieces with the least cost in all."""
    best = [0.0] + [math.inf] * len(pieces)  # of the first so many pieces
    begun = [0] * (len(pieces) + 1)
    for end in range(1, len(pieces) + 1):
        inside = 0.0
        for first in range(end - 1, -1, -1):
            if first < end - 1:
                inside += _inside(pieces[first + 1].start_s - pieces[first].end_s, wanted.pause_s)
            duration = pieces[end - 1].end_s - pieces[first].start_s
            if duration > wanted.longest_s and first < end - 1:
                break
            before = pieces[first].start_s - pieces[first - 1].end_s if first else math.inf
            cost = best[first] + inside + _of_cut(before) + _of_length(duration, wanted)
            if cost < best[end]:
                best[end], begun[end] = cost, first
    groups: list[tuple[int, int]] = []
    end = len(pieces)
    while end:
        groups.append((begun[end], end - 1))
        end = begun[end]
    return groups[::-1]


def _inside(pause_s: float, usual_s: float) -> float:
    """Cost of a pause within a clip: 1, the price of a cut, where it is as long as pauses between clips."""
    return float((pause_s / usual_s) ** 2)


def _of_cut(pause_s: float) -> float:
    return 1.0 + SHORT_PAUSE_COST * max(0.0, 1 - pause_s / SHORT_PAUSE_S)


def _of_length(duration_s: float, wanted: Wanted) -> float:
    return TOO_SHORT_COST * max(0.0, 1 - duration_s / wanted.shortest_s)


def _edges(pieces: Sequence[_Speech], first: int, last: int, *, margin: float, end_s: float) -> tuple[float, float]:
    """Return where a part begins and ends: a margin around its speech, at most half of the pause.

    The margin after speech is the shorter one, as a net that hears speech notices its end some frames late.
    """
    start, end = pieces[first].start_s, pieces[last].end_s
    before = start if first == 0 else (start - pieces[first - 1].end_s) / 2
    after = end_s - end if last + 1 == len(pieces) else (pieces[last + 1].start_s - end) / 2
    return start - min(margin, max(0.0, before)), end + min(margin / 2, max(0.0, after))
