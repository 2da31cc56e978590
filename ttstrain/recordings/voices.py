"""Whether several people speak: clips grouped by their voices, with the judge's speaker encoder.

Legend: k clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ttstrain.judge.voice import embed_speech, speech_only

SHORTEST_S = 2.0  # of speech; shorter clips say too little of a voice
JOINS = 0.70  # a clip belongs to a voice of this likeness: two clips of one speaker have 0.86, of two 0.51
SAME = 0.78  # two groups with more are one voice
ROUNDS = 3
FEWEST_CLIPS, LEAST_SHARE = 3, 0.05  # of the clips; a smaller group is an odd clip and no speaker


@dataclass(frozen=True, slots=True)
class Voices:
    """Which voice each clip has."""

    of_clips: list[int | None]  # 0 for the most frequent voice; None: too short, or like none
    count: int  # of voices


def embedding_of(wav: Tensor) -> Tensor | None:
    """Return the embedding (256,) of a clip at 16 kHz; None with less than 2 s of speech."""
    speech = speech_only(wav)
    return embed_speech(speech) if len(speech) >= SHORTEST_S * 16_000 else None


def group(embeddings: Sequence[Tensor | None]) -> Voices:
    """Group clips by voice. Few clips, or voices of fewer than three clips, are no speaker of their own."""
    known = [i for i, one in enumerate(embeddings) if one is not None]
    if not known:
        return Voices([None] * len(embeddings), 0)
    points = torch.stack([one for one in embeddings if one is not None])  # (k, 256)
    nearest = _nearest(points)
    sizes = [(int((nearest == number).sum()), number) for number in range(int(nearest.max()) + 1)]
    fewest = max(FEWEST_CLIPS, LEAST_SHARE * len(known))
    order = [number for size, number in sorted(sizes, key=lambda one: -one[0]) if size >= fewest]
    order = order or [max(sizes)[1]]
    of_clips: list[int | None] = [None] * len(embeddings)
    for i, number in zip(known, nearest.tolist(), strict=True):
        of_clips[i] = order.index(number) if number in order else None
    return Voices(of_clips, len(order))


def _nearest(points: Tensor) -> Tensor:
    """Return the number of each point's group (k,)."""
    centres: list[Tensor] = []
    for point in points:
        if not centres or float((torch.stack(centres) @ point).max()) < JOINS:
            centres.append(point)
    chosen = torch.stack(centres)
    for _ in range(ROUNDS):
        nearest = (points @ chosen.T).argmax(1)
        means = [points[nearest == number].mean(0) for number in range(len(chosen)) if bool((nearest == number).any())]
        chosen = _merged(F.normalize(torch.stack(means), dim=1))
    return (points @ chosen.T).argmax(1)


def _merged(centres: Tensor) -> Tensor:
    kept: list[Tensor] = []
    for centre in centres:
        like = next((i for i, other in enumerate(kept) if float(F.normalize(other, dim=0) @ centre) > SAME), None)
        if like is None:
            kept.append(centre)
        else:
            kept[like] = kept[like] + centre
    return F.normalize(torch.stack(kept), dim=1)
