"""Micro-batches made with arrays, against the same made clip by clip."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
import pytest

from ttstrain.data import sampler
from ttstrain.data.batches import Batches

Thing = TypeVar("Thing")


def plain_plan(lengths: Sequence[int], *, budget: int, max_clips: int, seed: int, epoch: int) -> list[list[int]]:
    """What `plan_epoch` says, one clip at a time."""
    rng = random.Random(f"{seed}/{epoch}")
    by_length = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    num_batches = max(1, len(filled(by_length, lengths, budget, max_clips)))
    blur = len(lengths) * max(sampler.BLUR_BATCHES / num_batches, sampler.BLUR_SHARE)
    places = [place + blur * rng.random() for place in range(len(lengths))]
    blurred = [by_length[k] for k in sorted(range(len(lengths)), key=places.__getitem__)]
    return shuffled(filled(blurred, lengths, budget, max_clips), rng)


def filled(order: Iterable[int], lengths: Sequence[int], budget: int, max_clips: int) -> list[list[int]]:
    batches: list[list[int]] = []
    for i in order:
        with_it = [*batches[-1], i] if batches else []
        fits = len(with_it) * max((lengths[k] for k in with_it), default=0) <= budget
        if with_it and fits and len(with_it) <= max_clips:
            batches[-1] = with_it
        else:
            batches.append([i])
    return batches


def shuffled(things: Sequence[Thing], rng: random.Random) -> list[Thing]:
    draws = [rng.random() for _ in things]
    return [things[i] for i in sorted(range(len(things)), key=draws.__getitem__)]


@pytest.mark.parametrize("seed", range(40))
def test_a_plan_is_that_of_one_clip_at_a_time(seed: int) -> None:
    draw = random.Random(seed)
    lengths = [draw.choice([0, 1, 7, 7, draw.randint(0, 300)]) for _ in range(draw.choice([0, 1, 2, 60]))]
    budget, max_clips, epoch = draw.choice([300, 301, 900, 5000]), draw.choice([1, 2, 9]), draw.randint(0, 3)
    plain = plain_plan(lengths, budget=budget, max_clips=max_clips, seed=seed, epoch=epoch)
    batches = sampler.plan_epoch(lengths, budget=budget, max_clips=max_clips, seed=seed, epoch=epoch)
    assert list(batches) == plain
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in plain)
    share = 1 - sum(lengths) / padded if padded else 0.0
    assert sampler.padding_share(lengths, batches) == sampler.padding_share(lengths, plain) == share


def test_batches_are_read_like_lists() -> None:
    lists = [[4, 2], [7], [1, 0, 3]]
    batches = Batches.of(lists)
    assert (len(batches), batches[-1], batches[1:], list(batches)) == (3, lists[-1], lists[1:], lists)
    assert list(batches.chosen(np.array([2, 0]))) == [lists[2], lists[0]]
    assert list(batches.of_members(np.arange(10, 20))) == [[14, 12], [17], [11, 10, 13]]
    assert list(Batches.of([])) == []
    with pytest.raises(IndexError):
        batches[3]
