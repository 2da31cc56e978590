"""`train.kernels: liger` and `train.fp8`: what a plan refuses, and what it says."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ttstrain.errors import RecipeError
from ttstrain.plan.plan import Plan
from ttstrain.plan.render import notes

MakePlan = Callable[..., Plan]
WHOLE = "task: orpheus\nextends: [models/orpheus_3b]\n"
ADAPTED = "lora={rank: 4}"
LIGER, FP8 = "train.kernels=liger", "train.fp8=true"


@pytest.mark.parametrize("asked", [(LIGER,), (FP8,), (LIGER, FP8), (LIGER, ADAPTED, "lora.base=nf4", "base=x")])
def test_a_plan_counts_the_net_as_torch_computes_it(make_plan: MakePlan, asked: tuple[str, ...]) -> None:
    plain = make_plan(*(one for one in asked if not one.startswith("train.")), head=WHOLE)
    faster = make_plan(*asked, head=WHOLE)
    assert faster.memory == plain.memory and faster.parameters == plain.parameters
    said = [note for note in notes(faster) if "FP8" in note]
    assert len(said) == (FP8 in asked)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((LIGER, "train.device=cpu"), "`train.kernels=liger` needs a GPU"),
        ((LIGER, "train.parallel.shard=2"), "`train.kernels=liger` has not been tried on weights"),
        ((FP8, "train.device=cpu"), "`train.fp8` needs a GPU"),
        ((FP8, "train.parallel.shard=2"), "`train.fp8` has not been tried on weights"),
        ((FP8, ADAPTED, "base=x"), "`train.fp8` is for training whole weights"),
        ((FP8, ADAPTED, "lora.base=nf4", "base=x"), "`train.fp8` is for training whole weights"),
        ((FP8, "train.precision=fp16"), "`train.precision` is `fp16`"),
        ((FP8, "train.precision=fp32"), "`train.precision` is `fp32`"),
        ((FP8, "model.intermediate_size=8200"), r"multiples of 16, and `net.model.layers.0.mlp.*8,200"),
    ],
)
def test_what_cannot_work_or_was_never_tried_is_refused(
    make_plan: MakePlan, overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        make_plan(*overrides, head=WHOLE, world_size=2)
    assert caught.value.hint


def test_sizes_outside_the_blocks_may_be_any(make_plan: MakePlan) -> None:
    assert make_plan(FP8, "model.vocab_size=156941", head=WHOLE).recipe.train.fp8


@pytest.mark.parametrize("asked", [LIGER, FP8])
def test_other_tasks_are_refused(make_plan: MakePlan, asked: str) -> None:
    with pytest.raises(RecipeError, match="is not for `flow`"):
        make_plan(asked)


@pytest.mark.parametrize(("asked", "key"), [(LIGER, "train.kernels"), (FP8, "train.fp8")])
def test_shards_that_are_chosen_leave_it_whole(make_plan: MakePlan, asked: str, key: str) -> None:
    found = make_plan(asked, "train.parallel.shard=auto", head=WHOLE, world_size=2, gpu_memory=1)
    assert found.sharding.degree == 1 and f"`{key}`" in found.sharding.why
