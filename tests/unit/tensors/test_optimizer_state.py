"""Optimizer state from other trainers' files: what torch writes is read, anything else is not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ttstrain.tensors.contents import read_contents
from ttstrain.tensors.optimizer_state import counter, number, read_optimizer


def written(folder: Path) -> Any:
    parameter = torch.nn.Parameter(torch.ones(2, 3))
    optimizer = torch.optim.AdamW([{"params": [parameter], "initial_lr": 2e-4}], lr=1e-4, weight_decay=0.1)
    parameter.grad = torch.ones(2, 3)
    optimizer.step()
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    return read_contents(folder / "optimizer.pt").tree


def test_what_torch_writes_is_read(tmp_path: Path) -> None:
    found = read_optimizer(written(tmp_path))
    assert found is not None
    (group,) = found.groups
    assert (group.lr, group.weight_decay, group.params, group.initial_lr) == (1e-4, 0.1, (0,), 2e-4)
    assert counter(found.of(0)["step"]) == 1
    assert found.of(7) == {}


def _set(*path: Any, value: Any) -> Callable[[Any], None]:
    def change(tree: Any) -> None:
        for part in path[:-1]:
            tree = tree[part]
        tree[path[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set("state", value=None),
        _set("state", value={"a": {}}),
        _set("state", value={0: [1, 2]}),
        _set("state", value={0: {1: 2}}),
        _set("param_groups", value=[]),
        _set("param_groups", value={}),
        _set("param_groups", 0, value=None),
        _set("param_groups", 0, "params", value=None),
        _set("param_groups", 0, "params", value=["0"]),
        _set("param_groups", 0, "lr", value=None),
        _set("param_groups", 0, "lr", value=float("nan")),
        _set("param_groups", 0, "lr", value=1 << 2000),
        _set("param_groups", 0, "weight_decay", value="0"),
    ],
)
def test_anything_else_is_not(change: Callable[[Any], None], tmp_path: Path) -> None:
    tree = copy.deepcopy(written(tmp_path))
    change(tree)
    assert read_optimizer(tree) is None


@pytest.mark.parametrize("tree", [None, [], 1, {"state": {}}])
def test_what_is_no_optimizer_at_all_is_not(tree: Any) -> None:
    assert read_optimizer(tree) is None


def test_numbers_and_counters(tmp_path: Path) -> None:
    torch.save({"step": torch.tensor(3.0), "many": torch.ones(4), "none": torch.ones(0)}, tmp_path / "a.pt")
    tree: Any = read_contents(tmp_path / "a.pt").tree
    assert counter(tree["step"]) == 3
    assert number(tree["many"]) is None and number(tree["none"]) is None
    assert number(True) is None and counter(-1) is None and counter(1e300) is None
