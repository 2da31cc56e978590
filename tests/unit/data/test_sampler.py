from __future__ import annotations

import random
import subprocess
import sys

import pytest

from ttstrain.data.sampler import _draws, in_order, overlong, padding_share, plan_epoch

LENGTHS = [int(random.Random(i).uniform(30, 900)) for i in range(200)]


def plan(lengths: list[int] = LENGTHS, *, budget: int = 3200, max_clips: int = 64, seed: int = 0, epoch: int = 0):
    return list(plan_epoch(lengths, budget=budget, max_clips=max_clips, seed=seed, epoch=epoch))


@pytest.mark.parametrize("epoch", range(5))
def test_each_epoch_covers_each_clip_exactly_once(epoch: int) -> None:
    assert sorted(i for batch in plan(epoch=epoch) for i in batch) == list(range(len(LENGTHS)))


@pytest.mark.parametrize("budget", [900, 3200, 38_400])
def test_no_micro_batch_costs_more_than_the_budget(budget: int) -> None:
    assert all(len(batch) * max(LENGTHS[i] for i in batch) <= budget for batch in plan(budget=budget))


def test_no_micro_batch_holds_more_than_max_clips() -> None:
    assert max(len(batch) for batch in plan(budget=100_000, max_clips=7)) == 7


def test_clips_of_like_length_share_a_micro_batch() -> None:
    in_file_order = [list(range(start, start + 4)) for start in range(0, 200, 4)]
    assert padding_share(LENGTHS, plan()) < 0.06 < padding_share(LENGTHS, in_file_order)


def test_composition_and_order_change_between_epochs_and_seeds() -> None:
    plans = [plan(), plan(epoch=1), plan(seed=1)]
    compositions = [{frozenset(batch) for batch in p} for p in plans]
    assert compositions[0] != compositions[1] != compositions[2] != compositions[0]
    assert len({tuple(max(LENGTHS[i] for i in batch) for batch in p) for p in plans}) == 3


def test_plan_is_the_same_in_another_process() -> None:
    program = (
        "import random; from ttstrain.data.sampler import plan_epoch;"
        "print(list(plan_epoch([int(random.Random(i).uniform(30, 900)) for i in range(200)],"
        " budget=3200, max_clips=64, seed=5, epoch=3)))"
    )
    env = {"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(sys.path)}
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env
    ).stdout
    assert printed.strip() == str(plan(seed=5, epoch=3))


@pytest.mark.parametrize("count", [1, 2, 6])
def test_a_handful_of_clips_is_enough(count: int) -> None:
    assert sum(len(batch) for batch in plan(LENGTHS[:count])) == count


def test_no_clips_make_no_micro_batches() -> None:
    assert plan([]) == []


def test_many_numbers_are_drawn_as_single_ones() -> None:
    """Batches are those of every machine and release: Python promises `Random.random` to stay as it is."""
    at_once, one_by_one = random.Random("0/3"), random.Random("0/3")
    for count in (0, 1, 7, 1000):
        assert _draws(count, at_once).tolist() == [one_by_one.random() for _ in range(count)]
    assert at_once.getstate() == one_by_one.getstate()


def test_overlong_clips_are_named_and_refused() -> None:
    assert overlong([10, 5000, 20, 3201], budget=3200) == [1, 3]
    with pytest.raises(ValueError, match="longer than 3200"):
        plan([10, 5000])


def test_in_order_keeps_overlong_clips_apart() -> None:
    assert in_order([10, 5000, 20], budget=3200, max_clips=8) == [[1], [2, 0]]


def test_sampler_imports_no_torch() -> None:
    program = (
        "import sys, ttstrain.data.sampler, ttstrain.data.audit, ttstrain.data.readers; print('torch' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "False"
