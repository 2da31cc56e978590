"""Which clips share a micro-batch: a pure function of lengths, seed and epoch. Imports no torch."""

from __future__ import annotations

import bisect
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ttstrain.data.batches import Batches, Indices

# How far a clip may move from its rank by length, so that micro-batches differ from epoch to epoch. On LJSpeech this
# costs 1 % more padding than exact order, and hardly any micro-batch repeats.
BLUR_BATCHES = 1.5
BLUR_SHARE = 0.02  # of all clips, for large sets
POOL_BATCHES = 32  # packed: best-fit packing runs over the clips of so many micro-batches at a time


def plan_epoch(
    lengths: Sequence[int], *, budget: int, max_clips: int, seed: int, epoch: int, packed: bool = False
) -> Batches:
    """Divide all clips into micro-batches, each index exactly once, with other members and order every epoch.

    The cost of a micro-batch is its number of clips times its longest clip, in frames (padding included); packed, the
    sum of its clips. Clips of similar length share a micro-batch; packed, any clips that fit.
    Raises ValueError for a clip that is longer than the budget: see `overlong`.
    """
    if too_long := overlong(lengths, budget=budget):
        raise ValueError(f"clips longer than {budget} frames: {too_long}")
    rng = random.Random(f"{seed}/{epoch}")  # seeded by text: the same numbers on every machine and Python
    if packed:
        order = _mixed(len(lengths), rng).tolist()
        batches = Batches.of(_best_fit(order, lengths, budget=budget, max_clips=max_clips))
        return batches.chosen(_mixed(len(batches), rng))
    frames = np.array(lengths, dtype=np.int64)  # (n,)
    by_length = np.argsort(-frames, kind="stable")
    num_batches = max(1, len(_ends(frames[by_length], budget=budget, max_clips=max_clips)))
    blur = len(lengths) * max(BLUR_BATCHES / num_batches, BLUR_SHARE)
    places = np.arange(len(lengths)) + blur * _draws(len(lengths), rng)
    blurred = by_length[np.argsort(places, kind="stable")]
    batches = Batches(blurred, _ends(frames[blurred], budget=budget, max_clips=max_clips))
    return batches.chosen(_mixed(len(batches), rng))


def plan_mixed_epoch(
    lengths: Sequence[int],
    replay: Sequence[int],
    *,
    share: float,
    budget: int,
    max_clips: int,
    seed: int,
    epoch: int,
    packed: bool = False,
) -> Batches:
    """Divide all clips and this epoch's sample of the replay clips into micro-batches, as `plan_epoch` does.

    `replay` holds the lengths of the replay clips; the first of them has the index `len(lengths)`.
    """
    if not replay:
        return plan_epoch(lengths, budget=budget, max_clips=max_clips, seed=seed, epoch=epoch, packed=packed)
    frames = sum(lengths) * share / (1 - share)
    drawn = [len(lengths) + i for i in draw_replay(replay, frames=frames, seed=seed, epoch=epoch)]
    members = [*range(len(lengths)), *drawn]
    every = [*lengths, *replay]
    batches = plan_epoch(
        [every[i] for i in members], budget=budget, max_clips=max_clips, seed=seed, epoch=epoch, packed=packed
    )
    return batches.of_members(np.array(members, dtype=np.int64))


def draw_replay(lengths: Sequence[int], *, frames: float, seed: int, epoch: int) -> list[int]:
    """Draw clips for one epoch, `frames` on average over epochs; no clip repeats before all were drawn once."""
    rng = random.Random(f"{seed}/{epoch}/replay")
    drawn: list[int] = []
    left = frames
    while True:
        for i in _mixed(len(lengths), rng).tolist():
            if lengths[i] >= left:  # the last one would exceed `frames`: drawn with the probability that keeps the mean
                return [*drawn, i] if rng.random() * lengths[i] < left else drawn
            drawn.append(i)
            left -= lengths[i]


def overlong(lengths: Sequence[int], *, budget: int) -> list[int]:
    """Return the indices of the clips that no micro-batch can hold."""
    return [i for i, length in enumerate(lengths) if length > budget]


def in_order(lengths: Sequence[int], *, budget: int, max_clips: int, packed: bool = False) -> list[list[int]]:
    """Divide clips into micro-batches from longest to shortest; a clip over the budget gets its own."""
    by_length = np.argsort(-np.array(lengths, dtype=np.int64), kind="stable")
    if packed:
        return _best_fit(by_length.tolist(), lengths, budget=budget, max_clips=max_clips)
    frames = np.array(lengths, dtype=np.int64)[by_length]
    return list(Batches(by_length, _ends(frames, budget=budget, max_clips=max_clips)))


def cost(batch: Sequence[int], lengths: Sequence[int], *, packed: bool = False) -> int:
    """Return a micro-batch's cost in frames: its clips times the longest, padding included; packed, their sum."""
    own = [lengths[i] for i in batch]
    return sum(own) if packed else len(own) * max(own)


def heaviest(lengths: Sequence[int], *, budget: int, max_clips: int, packed: bool = False) -> list[list[int]]:
    """Return the micro-batches with the longest clips, with the largest cost and with the most clips, each once.

    Leaves out clips over the budget. Empty where none is left.
    """
    fitting = [i for i, length in enumerate(lengths) if length <= budget]
    own = [lengths[i] for i in fitting]
    planned = in_order(own, budget=budget, max_clips=max_clips, packed=packed)
    if not planned:
        return []
    largest = max(planned, key=lambda batch: cost(batch, own, packed=packed))
    chosen = {id(batch): batch for batch in (planned[0], largest, max(planned, key=len))}
    return [[fitting[i] for i in batch] for batch in chosen.values()]


def pieces(batch: Sequence[int], lengths: Sequence[int], *, limit: int | None, packed: bool = False) -> list[list[int]]:
    """Halve a micro-batch recursively until each piece is within the limit or a single clip."""
    if limit is None or len(batch) == 1 or cost(batch, lengths, packed=packed) <= limit:
        return [list(batch)]
    middle = (len(batch) + 1) // 2
    halves = (batch[:middle], batch[middle:])
    return [piece for half in halves for piece in pieces(half, lengths, limit=limit, packed=packed)]


def padding_share(lengths: Sequence[int], batches: Sequence[Sequence[int]], *, packed: bool = False) -> float:
    """Return the share of frames that is padding; 0 when packed."""
    if packed:
        return 0.0
    held = batches if isinstance(batches, Batches) else Batches.of(batches)
    if not len(held):
        return 0.0
    frames = np.array(lengths, dtype=np.int64)[held.members]  # (n,)
    padded = int(np.dot(held.sizes, np.maximum.reduceat(frames, held.starts)))
    return 1 - int(frames.sum()) / padded if padded else 0.0


def _ends(lengths: Indices, *, budget: int, max_clips: int) -> Indices:
    """Fill micro-batches in the order of the clips whose lengths are given, and return the place after each."""
    ends: list[int] = []
    size = longest = 0
    for place, length in enumerate(lengths.tolist()):
        size += 1
        longest = length if length > longest else longest  # `max` takes three times as long
        if size > 1 and (size > max_clips or size * longest > budget):
            ends.append(place)
            size, longest = 1, length
    return np.array([*ends, len(lengths)] if size else ends, dtype=np.int64)


def _mixed(count: int, rng: random.Random) -> Indices:
    """Shuffle so many indices. Python promises `Random.random` to stay as it is between versions, `shuffle` not."""
    return np.argsort(_draws(count, rng), kind="stable")


def _draws(count: int, rng: random.Random) -> npt.NDArray[np.float64]:
    """Draw so many numbers as `Random.random` does: numpy's old generator makes the same ones, all at once."""
    version, (*words, place), gauss = rng.getstate()
    same = np.random.RandomState()
    same.set_state(("MT19937", np.array(words, dtype=np.uint32), place, 0, 0.0))
    drawn = same.random_sample(count)
    state: dict[str, Any] = same.get_state(legacy=False)["state"]
    rng.setstate((version, (*state["key"].tolist(), int(state["pos"])), gauss))
    return drawn


def _best_fit(order: Sequence[int], lengths: Sequence[int], *, budget: int, max_clips: int) -> list[list[int]]:
    """Pack clips by best fit, longest first: each goes to the micro-batch in which it leaves the least room.

    Packing runs over one pool of clips at a time, so that micro-batches differ from epoch to epoch. A micro-batch that
    one pool leaves unfilled is filled from the next.
    """
    batches: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (room left, index), sorted: the micro-batches that are not full
    for pool in _pools(order, lengths, budget=budget):
        for i in sorted(pool, key=lambda i: (-lengths[i], i)):
            place = bisect.bisect_left(rooms, (lengths[i], -1))
            if place == len(rooms):
                batches.append([i])
                room, index = budget - lengths[i], len(batches) - 1
            else:
                room, index = rooms.pop(place)
                batches[index].append(i)
                room -= lengths[i]
            if len(batches[index]) < max_clips and room > 0:
                bisect.insort(rooms, (room, index))
    return batches


def _pools(order: Sequence[int], lengths: Sequence[int], *, budget: int) -> Iterator[list[int]]:
    pool: list[int] = []
    total = 0
    for i in order:
        pool.append(i)
        total += lengths[i]
        if total >= POOL_BATCHES * budget:
            yield pool
            pool, total = [], 0
    if pool:
        yield pool
