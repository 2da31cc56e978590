"""Which clips share a micro-batch: a pure function of lengths, seed and epoch. Imports no torch."""

from __future__ import annotations

import random
from collections.abc import Sequence

# How far a clip may move from its place in the order of lengths, so that it meets other clips each epoch. On LJSpeech
# this costs 1 % of padding more than none, and hardly a micro-batch has the same clips twice.
BLUR_BATCHES = 1.5
BLUR_SHARE = 0.02  # of all clips, for large sets


def plan_epoch(lengths: Sequence[int], *, budget: int, max_clips: int, seed: int, epoch: int) -> list[list[int]]:
    """Divide all clips into micro-batches, each index exactly once, in a new way and order every epoch.

    A micro-batch costs what it takes in memory: its number of clips times its longest clip, in frames. Clips of like
    length share a micro-batch. Raises ValueError for a clip that is longer than the budget: see `overlong`.
    """
    if too_long := overlong(lengths, budget=budget):
        raise ValueError(f"clips longer than {budget} frames: {too_long}")
    rng = random.Random(f"{seed}/{epoch}")  # seeded by text: the same numbers on every machine and Python
    by_length = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    num_batches = max(1, len(_fill(by_length, lengths, budget=budget, max_clips=max_clips)))
    blur = len(lengths) * max(BLUR_BATCHES / num_batches, BLUR_SHARE)
    place = {i: rank + blur * rng.random() for rank, i in enumerate(by_length)}
    blurred = sorted(by_length, key=lambda i: place[i])
    batches = _fill(blurred, lengths, budget=budget, max_clips=max_clips)
    order = [rng.random() for _ in batches]  # `Random.random` is stable between versions, `shuffle` is not promised
    return [batches[i] for i in sorted(range(len(batches)), key=lambda i: order[i])]


def overlong(lengths: Sequence[int], *, budget: int) -> list[int]:
    """Return the indices of the clips that no micro-batch can hold."""
    return [i for i, length in enumerate(lengths) if length > budget]


def in_order(lengths: Sequence[int], *, budget: int, max_clips: int) -> list[list[int]]:
    """Divide clips into micro-batches from longest to shortest; a clip over the budget has one of its own."""
    by_length = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return _fill(by_length, lengths, budget=budget, max_clips=max_clips)


def padding_share(lengths: Sequence[int], batches: Sequence[Sequence[int]]) -> float:
    """Return the share of the frames in these micro-batches that is padding."""
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    real = sum(lengths[i] for batch in batches for i in batch)
    return 1 - real / padded if padded else 0.0


def _fill(order: Sequence[int], lengths: Sequence[int], *, budget: int, max_clips: int) -> list[list[int]]:
    batches: list[list[int]] = []
    current: list[int] = []
    longest = 0
    for i in order:
        longest_with_it = max(longest, lengths[i])
        if current and (len(current) == max_clips or (len(current) + 1) * longest_with_it > budget):
            batches.append(current)
            current, longest_with_it = [], lengths[i]
        current.append(i)
        longest = longest_with_it
    return [*batches, current] if current else batches
