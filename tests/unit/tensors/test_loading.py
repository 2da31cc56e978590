"""Loading is all or nothing, and says why not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ttstrain.errors import CheckpointError
from ttstrain.tensors.loading import build_to_fit, compare, load_weights


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


def test_whole_numbers_for_fractions_are_refused_and_fractions_for_counters_are_not() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    halved = {name: tensor.half() for name, tensor in module.state_dict().items()}  # counters too, as exports have it
    load_weights(module, halved, source="a.pt")
    with pytest.raises(CheckpointError, match=r"0\.weight: int32 in the file, float32 in the model"):
        load_weights(module, {**halved, "0.weight": torch.ones(2, 2, dtype=torch.int32)}, source="a.pt")


def test_a_net_that_does_not_fit_its_file_is_never_given_memory() -> None:
    tensors = nn.Linear(2, 3).state_dict()
    built: list[nn.Module] = []

    def build(width: int) -> nn.Linear:
        built.append(nn.Linear(width, 3))
        return nn.Linear(width, 3)

    assert build_to_fit(lambda: build(2), tensors, source="w.pt", config="c.json").weight.device.type == "cpu"
    built.clear()
    with pytest.raises(CheckpointError, match=r"`w\.pt` does not fit the configuration"):
        build_to_fit(lambda: build(1 << 30), tensors, source="w.pt", config="c.json")  # twelve gibibytes
    assert [net.weight.device.type for net in built if isinstance(net, nn.Linear)] == ["meta"]
    for wrong in (-1, "x", None):
        with pytest.raises(CheckpointError, match=r"`c\.json` does not describe a net"):
            build_to_fit(lambda wrong=wrong: build(wrong), tensors, source="w.pt", config="c.json")  # type: ignore[arg-type,misc]
