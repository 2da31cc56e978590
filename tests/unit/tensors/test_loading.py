"""Loading is all or nothing, and says why not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ttstrain.errors import CheckpointError
from ttstrain.tensors.loading import compare, load_weights


def make_module(rows: int = 6) -> nn.ModuleDict:
    return nn.ModuleDict({"text_embed": nn.Embedding(rows, 2), "proj": nn.Linear(2, 3), "norm": nn.LayerNorm(3)})


def test_a_perfect_match_is_loaded_and_counted() -> None:
    source, target = make_module(), make_module()
    report = load_weights(target, source.state_dict(), source="a.pt")
    assert len(report.matched) == 5
    assert str(report) == "5 tensors match"
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


def test_anything_less_names_every_kind_and_leaves_the_module_alone() -> None:
    module = make_module()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    tensors = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    tensors["proj.weight"] = torch.zeros(4, 2)
    tensors["extra"] = tensors.pop("norm.bias")
    with pytest.raises(CheckpointError) as caught:
        load_weights(module, tensors, source="a.pt")
    for part in ("`a.pt`", "norm.bias", "extra", "proj.weight: (4, 2) in the file, (3, 2) in the model"):
        assert part in caught.value.message
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_long_lists_are_cut_with_their_count() -> None:
    report = compare(nn.Linear(1, 1), {f"x{index}": torch.ones(1) for index in range(10)}, source="a.pt")
    assert "10 unknown to the model:" in str(report)
    assert "... and 7 more" in str(report)
    assert len(str(report).splitlines()) < 12


def test_another_vocabulary_is_called_that() -> None:
    with pytest.raises(CheckpointError) as caught:
        load_weights(make_module(rows=9), make_module(rows=6).state_dict(), source="a.pt")
    assert "vocabulary" in str(caught.value.hint)
    assert "6 rows" in str(caught.value.hint)
    assert "9" in str(caught.value.hint)
