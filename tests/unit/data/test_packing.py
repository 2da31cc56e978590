from __future__ import annotations

import random

import pytest

from ttstrain.data.sampler import in_order, overlong, padding_share, plan_epoch

BUDGET = 4096
MOST_UNUSED = 0.02  # greedy best fit on speech lengths leaves about half of this


def speech_lengths(count: int, *, median: float = 700, seed: int = 0) -> list[int]:
    """Draw lengths in tokens as a corpus of recordings has them, none over half the budget."""
    rng = random.Random(seed)
    return [min(2048, max(60, int(rng.lognormvariate(0, 0.6) * median))) for _ in range(count)]


LENGTHS = speech_lengths(3000)


def plan(*, epoch: int = 0, max_clips: int = 64, seed: int = 0) -> list[list[int]]:
    return list(plan_epoch(LENGTHS, budget=BUDGET, max_clips=max_clips, seed=seed, epoch=epoch, packed=True))


def tokens(batch: list[int]) -> int:
    return sum(LENGTHS[i] for i in batch)


def test_every_clip_comes_once_an_epoch() -> None:
    assert sorted(i for batch in plan() for i in batch) == list(range(len(LENGTHS)))


def test_a_packed_micro_batch_costs_the_sum_of_its_clips() -> None:
    assert max(map(tokens, plan())) <= BUDGET


def test_packing_needs_hardly_more_micro_batches_than_the_tokens_fill() -> None:
    batches = plan()
    assert 1 - sum(LENGTHS) / (len(batches) * BUDGET) < MOST_UNUSED


def test_packing_beats_padding() -> None:
    padded = plan_epoch(LENGTHS, budget=BUDGET, max_clips=64, seed=0, epoch=0)
    assert len(plan()) < len(padded)
    assert padding_share(LENGTHS, padded) > 0
    assert padding_share(LENGTHS, plan(), packed=True) == 0


def test_long_and_short_clips_are_spread_over_the_epoch() -> None:
    means = [tokens(batch) / len(batch) for batch in plan()]
    half = len(means) // 2
    first, second = sum(means[:half]) / half, sum(means[half:]) / (len(means) - half)
    assert first == pytest.approx(second, rel=0.1)


def test_clips_meet_other_clips_in_the_next_epoch() -> None:
    first, second = ({frozenset(batch) for batch in plan(epoch=epoch)} for epoch in (0, 1))
    assert len(first & second) <= 1


def test_the_plan_follows_from_seed_and_epoch() -> None:
    assert plan(epoch=3) == plan(epoch=3)
    assert plan(epoch=3) != plan(epoch=3, seed=1)


def test_no_packed_micro_batch_holds_more_than_max_clips() -> None:
    assert max(len(batch) for batch in plan(max_clips=3)) == 3


def test_overlong_clips_are_refused_in_training_and_alone_in_an_evaluation() -> None:
    lengths = [10, 5000, 20]
    assert overlong(lengths, budget=BUDGET) == [1]
    with pytest.raises(ValueError, match="longer than 4096"):
        plan_epoch(lengths, budget=BUDGET, max_clips=8, seed=0, epoch=0, packed=True)
    assert in_order(lengths, budget=BUDGET, max_clips=8, packed=True) == [[1], [2, 0]]
