"""Two and four processes train every family's own task as one process does on the same global batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from processes import Processes
from ranked_tasks import Stepped, step_alone, step_on_shares
from subjects import FOURTH, SMOKE_RECIPES

STEPS = 1
CLOSE = {"weights": 1e-6, "codebook": 5e-6, "optimizer state": 1e-6}


@pytest.fixture(scope="module", params=[(2, 1), (4, 2)], ids=["two_copies", "four_in_two_shards"])
def group(request: pytest.FixtureRequest) -> Iterator[tuple[Processes, int]]:
    """Start processes, and say in how many shards they hold weights; one group at a time, for they take gigabytes."""
    count, shard = request.param
    processes = Processes(count, timeout_s=300.0)
    yield processes, shard
    processes.close()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], tuple[Stepped, Path]]]:
    """Take the steps of a recipe in this process, once."""
    folder = tmp_path_factory.mktemp("alone")

    @cache
    def step(smoke: str) -> tuple[Stepped, Path]:
        file = folder / f"{smoke.replace('/', '_')}.pt"
        return step_alone(smoke, [], STEPS, into=file), file

    yield step
    for file in folder.iterdir():
        file.unlink()


@pytest.mark.parametrize("smoke", [*SMOKE_RECIPES, FOURTH])
def test_ranks_take_the_steps_of_one_process(
    group: tuple[Processes, int], alone: Callable[[str], tuple[Stepped, Path]], smoke: str
) -> None:
    (processes, shard), (expected, file) = group, alone(smoke)
    found: list[Stepped] = processes(step_on_shares, smoke, [], STEPS, shard, file)
    for rank in found:
        for kind, apart in rank.apart.items():
            assert apart <= CLOSE[kind], kind
        for mine, one in zip(rank.losses, expected.losses, strict=True):
            assert mine == pytest.approx(one, rel=1e-5)
        for mine, one in zip(rank.grad_norms, expected.grad_norms, strict=True):
            # In fp32, the norm of a table of millions of values depends on how it is divided.
            assert mine == pytest.approx(one, rel=5e-4)
        assert rank.checksums == found[0].checksums
