"""Whether the right words are heard, in any language: is the sentence's own recording the nearest of all recordings?

Speech is compared by its cepstrum along the best alignment (dynamic time warping). Each clip's coefficients are
normalised to mean 0 and variance 1, which takes out most of what the voice and the room add.

Legend: n frames of the speech, m frames of a candidate, c coefficients, k candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ttstrain.contract.task import Audio
from ttstrain.judge.alignment import alignment_costs
from ttstrain.judge.waveform import at_rate, cepstrum, without_edges

NUM_COEFFICIENTS = 12
FRAMES_PER_STEP = 2  # of 10 ms
FEWEST_FRAMES = 15  # 0.3 s


@dataclass(frozen=True, slots=True)
class Retrieved:
    """Where a sentence's own recording stands among the candidates."""

    rank: int  # 1: the nearest
    margin: float  # of the nearest other candidate's distance over the own one's, relative to the larger: -1 to 1
    num_candidates: int


def content(audio: Audio) -> Tensor | None:
    """Return normalised coefficients (n, c) of a clip's speech; None with less than 0.3 s of speech."""
    speech = cepstrum(without_edges(at_rate(audio)), num=NUM_COEFFICIENTS)
    frames = torch.nn.functional.avg_pool1d(speech.T[None], FRAMES_PER_STEP)[0].T if len(speech) else speech
    if len(frames) < FEWEST_FRAMES:
        return None
    return (frames - frames.mean(0)) / frames.std(0).clamp(min=1e-3)


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
