"""How gradients are added up over processes, seen from one of them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ranked import sum_all
from torch import Tensor, nn

from ttstrain.train import distributed, sums
from ttstrain.train.distributed import Ranks
from ttstrain.train.sums import GradientSums


class Twins(Ranks):
    """This process beside another one that does the same."""

    def sum(self, values: Tensor) -> Tensor:
        return values.mul_(2) if values.is_floating_point() else values  # the other's flags and order are zeros

    def begin_sum(self, values: Tensor) -> Callable[[], None]:
        values.mul_(2)
        return lambda: None


def parameters_of(*sizes: int, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(size, dtype=dtype)) for size in sizes]


@pytest.mark.parametrize("size", [10, 3 * 2**20])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_half_precision_is_added_up_in_fp32(monkeypatch: pytest.MonkeyPatch, size: int, dtype: torch.dtype) -> None:
    """In bf16, 256 + 0.75 + 0.75 would stay 256; a rank of the others holds 1.5 where this one holds 256."""
    added: list[torch.dtype] = []

    def add_others(values: Tensor, *, async_op: bool = False) -> Any:
        added.append(values.dtype)
        if values.is_floating_point():
            values.add_(0.75).add_(0.75)
        return SimpleNamespace(wait=lambda: None)

    monkeypatch.setattr(sums, "LARGE_BYTES", 2**21)
    monkeypatch.setattr(sums, "BUCKET_BYTES", 2**20)  # several pieces
    monkeypatch.setattr(distributed.dist, "all_reduce", add_others)
    parameters = parameters_of(size, size, dtype=dtype)
    for parameter in parameters:
        parameter.grad = torch.full((size,), 256.0, dtype=dtype)
    sum_all(Ranks(rank=0, world_size=3), parameters)
    assert set(added) == {torch.int64, torch.float32}
    for parameter in parameters:
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, torch.full((size,), 257.5).to(dtype))


def test_few_buckets_in_half_precision_are_held_in_fp32_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "BUCKET_BYTES", 4)
    open_sums, most = [0], [0]

    class Counting(Twins):
        def begin_sum(self, values: Tensor) -> Callable[[], None]:
            open_sums[0] += 1
            most[0] = max(most[0], open_sums[0])
            return lambda: open_sums.__setitem__(0, open_sums[0] - 1)

    parameters = parameters_of(*[2] * 20, dtype=torch.bfloat16)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    sum_all(Counting(world_size=2), parameters)
    assert (most, open_sums) == ([sums.ROUNDED_AT_ONCE], [0])


def test_sums_begin_in_the_order_in_which_the_first_rank_had_the_gradients_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sums, "BUCKET_BYTES", 4)
    begun: list[tuple[int, bool]] = []  # values of each bucket, and whether the last gradient was there

    class Noting(Twins):
        def begin_sum(self, values: Tensor) -> Callable[[], None]:
            begun.append((values.numel(), inner.grad is not None))
            return super().begin_sum(values)

    outer, inner, unused = parameters_of(2, 3, 5)
    own = GradientSums()
    for _ in range(2):
        with own.beginning(Noting(world_size=2), "model", [outer, inner, unused]):
            torch.autograd.backward(inner.sum() * outer.sum() * outer.sum(), inputs=[outer, inner])
        assert own.finish(Noting(world_size=2))
        assert unused.grad is None
        outer.grad = inner.grad = None
    assert begun[:3] == [(5, True), (3, True), (2, True)]  # the last parameter's first, and nothing before it
    assert [values for values, _ in begun[3:]] != [5, 3, 2]
    assert begun[-1][0] == 5


def test_a_sum_that_begins_does_not_change_what_the_backward_pass_still_reads() -> None:
    """The gradient of `added` is, in torch, the very memory that the pass hands on to `weight`."""
    weight, added = parameters_of(3, 3)
    own = GradientSums()
    ranks = Twins(world_size=2)
    hidden = (weight * torch.arange(3.0)).unsqueeze(0)
    with own.beginning(ranks, "model", [weight, added]):
        torch.autograd.backward(((hidden + added.unsqueeze(0)) * torch.tensor([1.0, 2.0, 3.0])).sum())
    assert own.finish(ranks)
    assert weight.grad is not None
    assert added.grad is not None
    assert added.grad.tolist() == [2.0, 4.0, 6.0]
    assert weight.grad.tolist() == [0.0, 4.0, 12.0]


def test_a_stage_that_freezes_parameters_is_given_buckets_of_its_own() -> None:
    parameters = parameters_of(2, 3, 5)
    own, ranks = GradientSums(), Twins(world_size=2)
    for trained in (parameters, parameters[1:], parameters):
        with own.beginning(ranks, "model", trained):
            torch.autograd.backward(sum(parameter.sum() for parameter in trained), inputs=trained)
        assert own.finish(ranks)
        assert [None if one.grad is None else float(one.grad.max()) for one in parameters] == [
            2.0 if any(one is own_one for own_one in trained) else None for one in parameters
        ]
        for parameter in parameters:
            parameter.grad = None


def test_a_single_process_sums_nothing_and_leaves_no_hook() -> None:
    (parameter,) = parameters_of(3)
    own = GradientSums()
    with own.beginning(Ranks(), "model", [parameter]):
        (parameter * 2).sum().backward()
    assert not own.under_way
    assert own.finish(Ranks())
    assert parameter.grad is not None
    assert parameter.grad.tolist() == [2.0, 2.0, 2.0]
