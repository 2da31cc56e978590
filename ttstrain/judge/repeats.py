"""Stretches that are said twice: what a model does that has lost its place in the text.

Speech is aligned with its own later part (Smith and Waterman 1981): where two stretches follow each other's sounds, the
score of their alignment grows, elsewhere it falls back to zero. A voice repeats a word or two by itself, so a stretch
counts only from half a second on.

Legend: n frames of 20 ms, c coefficients.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ttstrain.contract.task import Audio
from ttstrain.judge.waveform import at_rate, find_speech, without_edges
from ttstrain.judge.words import STEP_S, content

LIKE = 1.0  # distance of two frames' directions below which they count as alike; that of unlike sounds is about 1.4
GAP = 0.2  # cost of each frame by which one stretch is faster than the other
SHORTEST_LAG_S = 0.3  # from a stretch to its repetition: a long vowel is no repetition
SHORTEST_S = 0.5
LEAST_SCORE = 18.0  # natural speech without a repetition stayed below, in 123 clips of 12 voices
MOST = 5  # what is said more often than that is counted so


@dataclass(frozen=True, slots=True)
class Repeat:
    """A stretch of speech and how alike its repetition is."""

    start_s: float
    duration_s: float
    lag_s: float
    score: float


def find_repeats(audio: Audio) -> list[Repeat] | None:
    """Return the stretches of a clip that are said again later, the clearest first; None for one without speech."""
    frames = content(audio)
    if frames is None:
        return None
    gains = LIKE - torch.cdist(frames, frames).numpy()
    silent = ~_spoken(audio, len(frames))
    gains[silent] = gains[:, silent] = -LIKE  # pauses are alike, but they are no words
    found: list[Repeat] = []
    while len(found) < MOST:
        repeat, rows = _clearest(gains)
        if repeat.score < LEAST_SCORE or repeat.duration_s < SHORTEST_S:
            break
        found.append(repeat)
        gains[rows] = -LIKE
    return found


def _spoken(audio: Audio, num: int) -> np.ndarray:
    """Return which frames of `content` are speech (num,)."""
    wav = without_edges(at_rate(audio))
    mask = np.zeros(num, dtype=bool)
    for stretch in find_speech(wav):
        mask[int(stretch.start_s / STEP_S) : int(np.ceil(stretch.end_s / STEP_S))] = True
    return mask


def _clearest(gains: np.ndarray) -> tuple[Repeat, slice]:
    """Return the best local alignment of frames i with frames j > i, by anti-diagonals i + j, and its frames i."""
    n, lag = len(gains), round(SHORTEST_LAG_S / STEP_S)
    best = (0.0, 0, 0, 0)  # score, first i, last i, last j
    # score and first i of the best alignment that ends in (i, j), at i + 1, for the last diagonal and the one before
    last, before = (np.zeros(n + 1), np.zeros(n + 1, dtype=int)), (np.zeros(n + 1), np.zeros(n + 1, dtype=int))
    for diagonal in range(lag, 2 * n - 1):
        now = (np.zeros(n + 1), np.zeros(n + 1, dtype=int))
        i = np.arange(max(0, diagonal - n + 1), (diagonal - lag) // 2 + 1)
        if len(i):
            gain = gains[i, diagonal - i]
            ways = np.stack([before[0][i], last[0][i + 1] - GAP, last[0][i] - GAP])  # (1,1), (0,1), (1,0)
            starts = np.stack([before[1][i], last[1][i + 1], last[1][i]])
            way = ways.argmax(0)[None]
            reached = np.take_along_axis(ways, way, 0)[0]
            now[0][i + 1] = np.maximum(np.maximum(reached, 0) + gain, 0)
            now[1][i + 1] = np.where(reached > 0, np.take_along_axis(starts, way, 0)[0], i)
            top = int(now[0][i + 1].argmax())
            if now[0][i[top] + 1] > best[0]:
                best = (float(now[0][i[top] + 1]), int(now[1][i[top] + 1]), int(i[top]), diagonal - int(i[top]))
        last, before = now, last
    score, first, end, other = best
    repeat = Repeat(first * STEP_S, (end - first + 1) * STEP_S, (other - end) * STEP_S, score)
    return repeat, slice(first, end + 1)


def text_repeats(text: str, *, shortest: int = 8) -> bool:
    """Whether a text itself says something twice: the same `shortest` letters or more, without overlap."""
    letters = "".join(sign for sign in text.casefold() if sign.isalnum())
    return any(
        letters[start : start + shortest] in letters[start + shortest :] for start in range(len(letters) - shortest)
    )


def count_repeats(audio: Audio) -> float | None:
    """Return the number of stretches that are said twice; None for a clip without speech."""
    found = find_repeats(audio)
    return None if found is None else float(len(found))
