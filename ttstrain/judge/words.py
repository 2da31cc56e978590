"""Whether the right words are heard, in any language: is the sentence's own recording the nearest of all recordings?

Speech is compared by its cepstrum and the cepstrum's slope along the best alignment (dynamic time warping). Each clip's
coefficients are normalised to mean 0 and variance 1, which takes out most of what the voice and the room add, and each
frame to length 1, which compares directions. Few coefficients tell words apart better than many: the high ones carry
the voice. Chosen by retrieving recordings of 11 people with the same sentences spoken by five synthetic voices.

Legend: n frames of the speech, m frames of a candidate, c coefficients, k candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ttstrain.contract.task import Audio
from ttstrain.judge.alignment import alignment_costs
from ttstrain.judge.waveform import RATE, at_rate, cepstrum, without_edges

NUM_COEFFICIENTS = 8
SLOPE_WEIGHT = 1.4  # of the slopes beside the coefficients, both of variance 1
SLOPE_FRAMES = 4  # on either side, for the slope
FRAMES_PER_STEP = 2  # of 10 ms
STEP_S = 0.02
FEWEST_FRAMES = 15  # 0.3 s
NOTHING_LIKE_IT = -1.0  # the margin of a clip without speech: that of an own recording infinitely far away


@dataclass(frozen=True, slots=True)
class Retrieved:
    """Where a sentence's own recording stands among the candidates."""

    rank: int  # 1: the nearest
    margin: float  # of the nearest other candidate's distance over the own one's, relative to the larger: -1 to 1
    num_candidates: int


def content(audio: Audio) -> Tensor | None:
    """Return directions (n, c) of a clip's speech, one every 20 ms; None with less than 0.3 s of speech."""
    speech = without_edges(at_rate(audio))
    if len(speech) < FEWEST_FRAMES * STEP_S * RATE:
        return None
    level = _normalised(cepstrum(speech, num=NUM_COEFFICIENTS))
    frames = torch.cat([level, SLOPE_WEIGHT * _normalised(slopes(level))], dim=1)
    return F.normalize(F.avg_pool1d(frames.T[None], FRAMES_PER_STEP)[0].T, dim=1)


def slopes(frames: Tensor) -> Tensor:
    """Return each coefficient's slope (n, c) over nine frames, by linear regression; edges are held."""
    reach = torch.arange(-SLOPE_FRAMES, SLOPE_FRAMES + 1, dtype=frames.dtype)
    held = F.pad(frames.T[None], (SLOPE_FRAMES, SLOPE_FRAMES), mode="replicate")[0]  # (c, n + 8)
    return (held.unfold(1, len(reach), 1) @ reach / reach.square().sum()).T


def retrieve(spoken: Tensor, candidates: Sequence[Tensor], *, own: int) -> Retrieved:
    """Rank candidates (m, c) by their distance to `spoken` (n, c) and find `own`, an index into them.

    ValueError with fewer than two candidates.
    """
    if len(candidates) < 2:
        raise ValueError("retrieval needs at least two candidates")
    costs = alignment_costs(spoken, candidates)  # (k,)
    others = torch.cat([costs[:own], costs[own + 1 :]])
    nearest, mine = others.min(), costs[own]
    rank = 1 + int((others <= mine).sum())
    return Retrieved(rank, float((nearest - mine) / torch.maximum(nearest, mine).clamp(min=1e-9)), len(candidates))


def _normalised(frames: Tensor) -> Tensor:
    """Return coefficients (n, c) with mean 0 and variance 1 over time."""
    return (frames - frames.mean(0)) / frames.std(0).clamp(min=1e-3)
