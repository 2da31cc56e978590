"""The micro-batches of a recipe's data that need the most memory."""

from __future__ import annotations

from typing import Any

from ttstrain.contract.data import Clip
from ttstrain.data import sampler
from ttstrain.train.prepare import Prepared


def worst_batches(prepared: Prepared, *, budget: int, max_clips: int) -> list[list[Clip]]:
    """Return the micro-batch with the longest clips and the one with the most frames, padding included.

    They are one where they are the same. Empty where no clip fits the budget.
    """
    data = prepared.task_data
    clips = [*prepared.train, *prepared.replay]
    lengths = [data.length(clip) for clip in clips]
    found = sampler.heaviest(lengths, budget=budget, max_clips=max_clips, packed=data.packed)
    return [[clips[i] for i in batch] for batch in found]


def collate(prepared: Prepared, clips: list[Clip]) -> Any:
    """Make one micro-batch of clips, on the host."""
    data = prepared.task_data
    return data.collate([data.example(clip, prepared.cache.get(clip)) for clip in clips])
