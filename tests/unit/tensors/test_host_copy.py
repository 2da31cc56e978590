"""A copy in host memory: nothing of it changes with its source, and the next one is made in the same memory."""

from __future__ import annotations

from typing import Any

import torch

from ttstrain.tensors.host_copy import HostCopy


def state() -> dict[str, Any]:
    weight = torch.randn(5, 3)
    return {
        "task": {"weight": weight, "tied": weight, "count": torch.tensor(7), "mask": torch.tensor([True, False, True])},
        "optimizers": {"model": {"weight": {}}},
        "progress": {"step": 3, "seen": [1, 2]},
        "rng": [torch.arange(4, dtype=torch.uint8), torch.empty(0)],
    }


def test_a_copy_stays_when_its_source_changes() -> None:
    source = state()
    before = {name: tensor.clone() for name, tensor in source["task"].items()}
    copied = HostCopy().take(source)
    for tensor in source["task"].values():
        tensor.zero_()
    source["progress"]["seen"].append(3)
    assert all(torch.equal(copied["task"][name], value) for name, value in before.items())
    assert copied["progress"] == {"step": 3, "seen": [1, 2]}
    assert torch.equal(copied["rng"][0], torch.arange(4, dtype=torch.uint8))
    assert copied["rng"][1].shape == (0,)


def test_the_next_copy_takes_the_memory_of_the_last() -> None:
    source, copy = state(), HostCopy()
    first = copy.take(source)
    places = {name: tensor.data_ptr() for name, tensor in first["task"].items()}
    source["task"]["weight"].add_(1)
    source["optimizers"]["model"]["weight"] = {"exp_avg": torch.ones(5, 3)}  # as after the first step
    second = copy.take(source)
    assert {name: tensor.data_ptr() for name, tensor in second["task"].items()} == places
    assert torch.equal(second["task"]["weight"], source["task"]["weight"])
    assert torch.equal(second["optimizers"]["model"]["weight"]["exp_avg"], torch.ones(5, 3))


def test_a_tensor_of_another_shape_or_type_gets_memory_of_its_own() -> None:
    copy = HostCopy()
    copy.take({"x": torch.zeros(4), "y": torch.zeros(4)})
    second = copy.take({"x": torch.ones(9), "y": torch.ones(4, dtype=torch.float64)})
    assert torch.equal(second["x"], torch.ones(9))
    assert torch.equal(second["y"], torch.ones(4, dtype=torch.float64))


def test_tensors_that_share_memory_are_copied_once() -> None:
    copied = HostCopy().take(state())["task"]
    assert copied["tied"].data_ptr() == copied["weight"].data_ptr()
    views = torch.arange(6.0)
    part = HostCopy().take({"whole": views, "half": views[:3]})
    assert part["half"].data_ptr() != part["whole"].data_ptr()
    assert torch.equal(part["half"], views[:3])
