"""NaN and infinity are found wherever a state keeps them, and named; large numbers are none of both."""

from __future__ import annotations

import math

import pytest
import torch

from ttstrain.errors import CheckpointError
from ttstrain.tensors.finite import named, non_finite
from ttstrain.tensors.loading import load_weights


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e5m2])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_bad_number_in_any_format_names_its_tensor(dtype: torch.dtype, value: float) -> None:
    bad = torch.zeros(7, 5)
    bad[6, 4] = value
    tree = {"task": {"a": torch.ones(3, dtype=dtype), "b": bad.to(dtype)}, "optimizers": {"model": {}}}
    assert non_finite(tree) == ["task/b"]


def test_moments_averages_and_plain_numbers_are_looked_at() -> None:
    nan = torch.tensor(math.nan)
    tree = {
        "ema": {"weights": {"x": nan}},
        "optimizers": {"model": {"x": {"exp_avg": torch.tensor([math.inf]), "step": torch.tensor(3.0)}}},
        "best": {"value": math.nan},
        "list": [{"y": nan}],
    }
    assert sorted(non_finite(tree)) == ["best/value", "ema/weights/x", "list/0/y", "optimizers/model/x/exp_avg"]


def test_numbers_whose_squares_overflow_are_finite() -> None:
    tree = {"a": torch.full((4,), 3e38), "b": torch.full((4,), 6e4, dtype=torch.float16), "c": torch.zeros(0, 3)}
    assert non_finite({**tree, "d": torch.arange(3), "e": "text", "f": None, "g": 10**400}) == []


def test_many_names_are_cut_short() -> None:
    assert named(["a", "b", "c", "d", "e"]) == "`a`, `b`, `c` and 2 more"


def test_weights_that_are_not_finite_are_not_loaded() -> None:
    net = torch.nn.Linear(2, 2)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    weights = {"weight": torch.tensor([[1.0, math.nan], [0.0, 0.0]]), "bias": torch.zeros(2)}
    with pytest.raises(CheckpointError, match=r"`x\.pt` holds NaN or infinity in 1 tensors: `weight`"):
        load_weights(net, weights, source="x.pt")
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
