"""New rows that train alone: whatever the optimizer, the rest of the net does not move by a bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ttstrain.contract.task import EmbeddingsFirst
from ttstrain.errors import CheckpointError, RecipeError
from ttstrain.optim.groups import build_groups
from ttstrain.optim.new_embeddings import NewEmbeddings
from ttstrain.optim.optimizers import Optimizers
from ttstrain.recipe.schema import GroupRule, OptimConfig

FIRST = EmbeddingsFirst(tables=("table.weight",), steps=2)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(6, 4)
        self.out = nn.Linear(4, 3)


def make(net: nn.Module, **optim: Any) -> Optimizers:
    named = dict(net.named_parameters())
    config = OptimConfig(**{"lr": 0.1, "weight_decay": 0.5, **optim})
    table = build_groups({"model": net}, named.items(), config, embeddings_first=FIRST)
    rows = NewEmbeddings(FIRST.steps, {name: named[name] for name in FIRST.tables})
    rows.choose({"table.weight": [1, 4]})
    return Optimizers.build(table, total_steps=10, steps_per_epoch=1, new_embeddings=rows)


def take_step(net: Net, optimizers: Optimizers, step: int) -> float:
    optimizers.set_lr(step)
    loss = net.out(net.table.weight).square().sum()
    torch.autograd.backward(loss, inputs=optimizers.params("model"))
    optimizers.mask()
    norm = float(optimizers.norms("model").total)
    optimizers.step("model")
    optimizers.zero_grad("model")
    return norm


@pytest.mark.parametrize("kind", ["adamw", "lion", "adan", "sgd", "muon"])
def test_nothing_but_the_new_rows_moves_until_the_stage_is_over(kind: str) -> None:
    net = Net()
    optimizers = make(net, kind=kind)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for step in range(FIRST.steps):
        take_step(net, optimizers, step)
    old = [0, 2, 3, 5]
    assert torch.equal(net.table.weight[old], before["table.weight"][old])
    assert not (net.table.weight[[1, 4]] == before["table.weight"][[1, 4]]).any()
    assert torch.equal(net.out.weight, before["out.weight"])
    assert torch.equal(net.out.bias, before["out.bias"])
    take_step(net, optimizers, FIRST.steps)
    assert not (net.table.weight[old] == before["table.weight"][old]).any()
    assert not torch.equal(net.out.weight, before["out.weight"])


def test_gradient_norms_count_the_new_rows_only() -> None:
    net = Net()
    optimizers = make(net)
    optimizers.set_lr(0)
    net.out(net.table.weight).square().sum().backward()
    gradient = net.table.weight.grad
    assert gradient is not None
    expected = float(gradient[[1, 4]].norm())
    optimizers.mask()
    assert float(optimizers.norms("model").total) == pytest.approx(expected)


def test_after_the_stage_an_old_rows_first_step_is_a_first_step() -> None:
    """A count of steps from before would make it sqrt(1 - b2) / (1 - b1) times too long."""
    net = Net()
    optimizers = make(net, weight_decay=0.0, schedule={"kind": "constant", "warmup_steps": 0})
    for step in range(FIRST.steps):
        take_step(net, optimizers, step)
    before = net.table.weight.detach().clone()
    take_step(net, optimizers, FIRST.steps)
    torch.testing.assert_close((net.table.weight - before).abs(), torch.full((6, 4), 0.1), rtol=1e-3, atol=0)


def test_the_logged_lr_of_what_waits_is_zero() -> None:
    optimizers = make(Net(), groups=[GroupRule(name="text", match=["table.*"], lr_scale=0.5)])
    lrs = optimizers.set_lr(0)
    assert (lrs["model/default"], lrs["model/text.tables"] > 0) == (0.0, True)
    lrs = optimizers.set_lr(FIRST.steps)
    assert lrs["model/text.tables"] == 0.5 * lrs["model/default"]


def test_a_range_of_frozen_steps_grows_by_the_stage_or_is_refused() -> None:
    longer = make(Net(), groups=[GroupRule(name="out", match=["out.*"], frozen=(0, 5))])
    assert longer.set_lr(4)["model/out"] == 0.0
    assert longer.set_lr(5)["model/out"] > 0.0
    with pytest.raises(RecipeError, match=r"frozen in steps \[3, 5\)"):
        make(Net(), groups=[GroupRule(name="out", match=["out.*"], frozen=(3, 5))])


def test_the_rows_are_part_of_the_state() -> None:
    net = Net()
    optimizers = make(net)
    saved = optimizers.new_embeddings
    assert saved is not None
    table = dict(net.named_parameters())["table.weight"]
    fresh = NewEmbeddings(FIRST.steps, {"table.weight": table})
    assert fresh.count == 0
    fresh.load_state_dict(saved.state_dict())
    assert fresh.count == 2
    with pytest.raises(CheckpointError, match=r"table\.weight"):
        NewEmbeddings(2, {"other": table}).load_state_dict(saved.state_dict())
