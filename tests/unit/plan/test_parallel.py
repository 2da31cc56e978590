"""What a plan says of processes that divide the weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ttstrain.errors import RecipeError
from ttstrain.plan.parallel import GATHERED, ROOT, by_block
from ttstrain.plan.parameters import shapes_of
from ttstrain.plan.plan import Plan

MakePlan = Callable[..., Plan]


def test_each_process_holds_its_part_and_what_is_gathered(make_plan: MakePlan) -> None:
    whole = make_plan(world_size=4)
    shards = make_plan("train.parallel.shard=4", world_size=4)
    for part in ("weights", "gradients", "moments", "ema", "snapshot"):
        assert 4 * shards.memory[part] == pytest.approx(whole.memory[part], abs=4)
    assert shards.memory.get("activations") == whole.memory.get("activations")
    assert GATHERED not in whole.memory
    counts = by_block(shards.recipe, shapes_of(shards.recipe))
    block = max(count for name, count in counts.items() if name != ROOT)
    assert shards.memory[GATHERED] == 4 * (2 * counts[ROOT] + 3 * block)


def test_two_groups_of_two_hold_half_each(make_plan: MakePlan) -> None:
    half = make_plan("train.parallel={shard: 2, replicate: 2}", world_size=4)
    assert 2 * half.memory["moments"] == make_plan(world_size=4).memory["moments"]


@pytest.mark.parametrize(
    ("overrides", "world_size", "said"),
    [
        ("train.parallel.shard=2", 1, "`train.parallel.shard` is 2, and the run has 1 process"),
        ("train.parallel.shard=2", 3, "the run has 3 processes"),
        ("train.parallel={shard: 2, replicate: 1}", 4, "asks for 1 times 2 processes, and the run has 4 processes"),
    ],
)
def test_other_numbers_of_processes_are_refused(
    make_plan: MakePlan, overrides: str, world_size: int, said: str
) -> None:
    with pytest.raises(RecipeError) as refused:
        make_plan(overrides, world_size=world_size)
    assert said in str(refused.value)
    assert "--nproc" in (refused.value.hint or "")


@pytest.mark.parametrize("key", ["optim.kind=muon", "optim.optimizers.model.kind=prodigy"])
def test_optimizers_that_look_at_whole_tensors_are_refused(make_plan: MakePlan, key: str) -> None:
    with pytest.raises(RecipeError, match="looks at whole tensors"):
        make_plan(key, "train.parallel.shard=2", world_size=2)


def test_a_sharded_run_speaks_and_may_be_judged(make_plan: MakePlan) -> None:
    plan = make_plan("train.parallel.shard=2", "checkpoint.best=judge", world_size=2)
    assert plan.sample_every is not None
    assert plan.sample_every == make_plan(world_size=2).sample_every
