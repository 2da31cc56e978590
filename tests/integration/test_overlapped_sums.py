"""Sums of gradients that begin within the backward pass are those that begin after it, bit for bit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ranked
import ranked_sums
import torch
from processes import Processes
from ranked_shards import Stack
from small_runs import differences
from subjects import FOURTH, SMOKE_RECIPES
from toys import Counting, Gan, Joint, Regression

from ttstrain.errors import PeerError

TwoRanks = Callable[..., list[Any]]
STEPS = 3


@pytest.fixture(scope="module")
def two() -> Iterator[Processes]:
    processes = Processes(2, timeout_s=120.0)
    yield processes
    processes.close()


def check_equal(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert differences(rank["overlapped"], rank["plain"]) == []
        assert 0 < rank["early"] <= rank["all"]


def test_overlapped_and_plain_sums_train_the_same(two: TwoRanks) -> None:
    """One rank has a micro-batch less than the other, and clips of its own use `rare` weights."""
    classes = (Regression, Joint, Gan, Counting, ranked.Sparse, Stack, ranked_sums.Deep)
    cases = [(one, torch.float32, "fp32") for one in classes]
    cases += [(Regression, torch.float32, "fp16"), (Regression, torch.bfloat16, "bf16")]
    first, second = two(ranked_sums.train_both, cases, STEPS)
    for one, other in zip(first, second, strict=True):
        check_equal([one, other])
        assert differences(one["overlapped"]["task"], other["overlapped"]["task"]) == []


VARIANTS = [("smoke/flow", "model.checkpoint_activations=true"), ("smoke/flow", "lora.rank=2")]


@pytest.mark.parametrize(("smoke", "overrides"), [*((smoke, "") for smoke in [*SMOKE_RECIPES, FOURTH]), *VARIANTS])
def test_every_task_trains_the_same(two: TwoRanks, smoke: str, overrides: str) -> None:
    check_equal(two(ranked_sums.train_subject, smoke, overrides.split()))


def test_gradients_of_every_kind_are_summed(two: TwoRanks) -> None:
    for summed in two(ranked_sums.sum_mixture):
        for name, gradient in summed.items():
            if "none" in name:
                assert gradient is None
                continue
            times = 1 if "mine" in name else 2  # 1 x and 2 x make 3 x
            assert torch.equal(gradient, ranked_sums.mixture_gradient(gradient, times)), name


@pytest.mark.parametrize(
    ("at_rank", "sizes", "begun"),
    [(0, ((3, 2), (6, 1)), True), (1, ((3, 2), (1, 6)), True), (1, ((3, 2), (6, 1)), False)],
    ids=["first rank", "second rank", "before its last pass"],
)
def test_memory_that_runs_out_half_way_back_makes_both_take_smaller_pieces(
    two: TwoRanks, at_rank: int, sizes: tuple[tuple[int, int], ...], *, begun: bool
) -> None:
    """In the last pass of a step, where the rank has begun some sums and the other all, or in an earlier one."""
    alone = ranked.train_toy_alone(ranked_sums.Deep, 3)
    ranks = two(ranked_sums.meet_memory_half_way, 2 if at_rank == 0 else 6, at_rank, sizes)
    assert differences(ranks[0]["weights"], ranks[1]["weights"]) == []
    assert [len(rank["notes"]) for rank in ranks] == [1, 0]
    assert (ranks[at_rank]["before"] > 0) == begun
    for rank in ranks:
        assert rank["taken"] == [True, True, True]
        for name, tensor in alone.weights.items():
            torch.testing.assert_close(rank["weights"][name], tensor, rtol=0, atol=1e-6)


def test_half_a_step_is_taken_back_by_both(two: TwoRanks) -> None:
    ranks = two(ranked_sums.meet_memory_in_the_second_of_two, 2, 0)
    assert differences(ranks[0]["weights"], ranks[1]["weights"]) == []
    for rank in ranks:
        assert rank["taken"] == [False, True, True]


@pytest.mark.parametrize("at_rank", [0, 1])
def test_an_error_half_way_back_does_not_leave_the_other_waiting(two: TwoRanks, at_rank: int) -> None:
    started = time.monotonic()
    results = two(ranked_sums.fail_half_way, at_rank)
    assert isinstance(results[at_rank], ValueError)
    assert isinstance(results[1 - at_rank], PeerError)
    assert time.monotonic() - started < 20
