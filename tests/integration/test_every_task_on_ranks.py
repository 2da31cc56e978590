"""Two and four processes train every family's own task as one process does on the same global batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from processes import Processes
from ranked_tasks import Stepped, step_alone, step_on_shares
from subjects import FOURTH, SMOKE_RECIPES

Ranks = Callable[..., list[Any]]
STEPS = 1
CLOSE = {"weights": 1e-6, "codebook": 5e-6, "optimizer state": 1e-6}


@pytest.fixture(scope="module")
def two() -> Iterator[Processes]:
    processes = Processes(2, timeout_s=300.0)
    yield processes
    processes.close()


@pytest.fixture(scope="module")
def four() -> Iterator[Processes]:
    processes = Processes(4, timeout_s=300.0)
    yield processes
    processes.close()


@pytest.mark.parametrize("smoke", [*SMOKE_RECIPES, FOURTH])
def test_ranks_take_the_steps_of_one_process(two: Ranks, four: Ranks, smoke: str) -> None:
    alone = step_alone(smoke, [], STEPS)
    for ranks, shard in ((two, 1), (four, 2)):
        found: list[Stepped] = ranks(step_on_shares, smoke, [], STEPS, shard)
        for rank in found:
            for kind, apart in rank.apart(alone).items():
                assert apart <= CLOSE[kind], kind
            for mine, expected in zip(rank.losses, alone.losses, strict=True):
                assert mine == pytest.approx(expected, rel=1e-5)
            for mine, expected in zip(rank.grad_norms, alone.grad_norms, strict=True):
                # In fp32, the norm of a table of millions of values depends on how it is divided.
                assert mine == pytest.approx(expected, rel=5e-4)
            assert torch.equal(rank.values, found[0].values)
