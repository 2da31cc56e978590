"""The average of weights against sums worked out by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ttstrain.errors import CheckpointError
from ttstrain.optim.ema import Ema


class Module(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("running", torch.zeros(3))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)


def fill(module: nn.Module, value: float) -> None:
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.fill_(value)


def weight(ema: Ema, name: str = "linear.weight") -> float:
    tensor = ema.state_dict()["weights"][name]
    assert tensor.unique().numel() == 1
    return float(tensor.flatten()[0])


def make(module: nn.Module | None = None, **settings: Any) -> tuple[nn.Module, Ema]:
    module = Module() if module is None else module
    fill(module, 0.0)
    return module, Ema(module, **{"decay": 0.9, "start_step": 0, "every": 1} | settings)


def test_it_starts_as_a_copy_that_training_does_not_touch() -> None:
    module, ema = make()
    fill(module, 5.0)
    assert weight(ema) == 0.0


def test_constant_decay_is_the_geometric_sum() -> None:
    module, ema = make(decay_at=lambda step: 0.9)
    fill(module, 1.0)
    for step in range(1, 21):
        ema.update(step)
        assert weight(ema) == pytest.approx(1 - 0.9**step, rel=1e-5)


def test_decay_warms_up_to_its_limit() -> None:
    _, ema = make(decay=0.999)
    assert ema.decay_at(0) == 0.0
    assert [ema.decay_at(step) for step in (1, 2, 90)] == pytest.approx([2 / 11, 3 / 12, 91 / 100])
    assert ema.decay_at(8981) < ema.decay_at(100_000) == 0.999


def test_until_the_start_step_the_average_is_a_copy_and_then_warms_up() -> None:
    module, ema = make(start_step=5)
    for step in range(1, 6):
        fill(module, step)
        ema.update(step)
        assert weight(ema) == step
    assert ema.decay_at(5) == 0.0
    assert ema.decay_at(6) == pytest.approx(2 / 11)
    fill(module, 16.0)
    ema.update(6)
    assert weight(ema) == pytest.approx(5 * 2 / 11 + 16 * 9 / 11, rel=1e-6)


def test_updates_every_few_steps_keep_the_horizon() -> None:
    """On weights that stand still, ten updates in one are ten updates."""
    often, rarely = make(decay=0.95), make(decay=0.95, every=10)
    for module, _ in (often, rarely):
        fill(module, 1.0)
    for step in range(1, 1001):
        often[1].update(step)
        rarely[1].update(step)
    assert rarely[1].decay_at(1000) == pytest.approx(0.95**10)
    for step in range(1001, 1041):
        for module, ema in (often, rarely):
            fill(module, 3.0)
            ema.update(step)
    assert weight(rarely[1]) == pytest.approx(weight(often[1]), rel=1e-6) == pytest.approx(3 - 2 * 0.95**40, rel=1e-5)


def test_between_its_updates_the_average_rests() -> None:
    module, ema = make(every=4)
    fill(module, 1.0)
    moved = []
    for step in range(1, 9):
        before = weight(ema)
        ema.update(step)
        moved.append(weight(ema) != before)
    assert moved == [False, False, False, True] * 2


def test_float_buffers_are_averaged_and_integers_copied() -> None:
    module, ema = make(decay_at=lambda step: 0.75)
    fill(module, 8.0)
    ema.update(1)
    assert weight(ema, "running") == 2.0
    assert weight(ema, "count") == 8.0
    assert "scratch" not in ema.state_dict()["weights"]


def test_reset_makes_it_a_copy_again() -> None:
    module, ema = make()
    fill(module, 4.0)
    ema.reset(module)
    assert weight(ema) == 4.0
    fill(module, 5.0)
    assert weight(ema) == 4.0


def test_distance_is_relative_to_the_weights() -> None:
    module, ema = make(nn.Linear(3, 2))
    nn.init.normal_(module.weight)
    nn.init.normal_(module.bias)
    own = torch.cat([module.weight.flatten(), module.bias]).detach()
    assert float(ema.distance(module)) == pytest.approx(1.0)  # the average is zero
    ema.reset(module)
    assert float(ema.distance(module)) == 0.0
    with torch.no_grad():
        module.bias += 0.5
    moved = torch.cat([module.weight.flatten(), module.bias]).detach()
    assert float(ema.distance(module)) == pytest.approx(float((moved - own).norm() / moved.norm()), rel=1e-5)


def test_swapping_shows_the_average_and_gives_the_weights_back_bit_for_bit() -> None:
    module, ema = make()
    nn.init.normal_(module.linear.weight)
    own = copy.deepcopy(module.state_dict())
    places = {name: tensor.data_ptr() for name, tensor in module.named_parameters()}
    averaged = weight(ema)
    with ema.swapped_in(module):
        assert module.linear.weight.unique().tolist() == [averaged]
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, own[name])
    assert {name: tensor.data_ptr() for name, tensor in module.named_parameters()} == places


def test_the_weights_come_back_when_the_block_fails() -> None:
    module, ema = make()
    fill(module, 3.0)
    with pytest.raises(RuntimeError, match="evaluation failed"), ema.swapped_in(module):
        raise RuntimeError("evaluation failed")
    assert module.linear.weight[0, 0].item() == 3.0
    assert weight(ema) == 0.0


def test_an_optimizer_trains_on_after_a_swap() -> None:
    module, ema = make(nn.Linear(3, 2))
    twin = copy.deepcopy(module)
    for net, swaps in ((module, True), (twin, False)):
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, fused=True)
        for _ in range(3):
            net(torch.ones(3)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            if swaps:
                with ema.swapped_in(net), torch.no_grad():
                    net(torch.ones(3))
    assert torch.equal(module.weight, twin.weight)


def test_saved_and_loaded_it_goes_on_as_if_nothing_happened() -> None:
    def steps(module: nn.Module, ema: Ema, span: range) -> None:
        for step in span:
            fill(module, float(step % 7))
            ema.update(step)

    module, whole = make()
    steps(module, whole, range(1, 20))
    module, first = make()
    steps(module, first, range(1, 9))
    saved = copy.deepcopy(first.state_dict())
    module, second = make()
    second.load_state_dict(saved)
    steps(module, second, range(9, 20))
    assert weight(second) == weight(whole)
    assert float(saved["weights"]["linear.weight"][0, 0]) == weight(first)  # copied, not shared


def test_tied_weights_are_averaged_once_and_saved_under_both_names() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.text = nn.Embedding(5, 3)
            self.head = nn.Linear(3, 5, bias=False)
            self.head.weight = self.text.weight

    module, ema = make(Tied(), decay_at=lambda step: 0.5)
    fill(module, 1.0)
    ema.update(1)
    weights = ema.state_dict()["weights"]
    assert weights.keys() == module.state_dict().keys()
    assert weights["text.weight"] is weights["head.weight"]
    assert weight(ema, "head.weight") == 0.5
    with ema.swapped_in(module):
        assert module.head.weight[0, 0].item() == 0.5
        assert module.head.weight is module.text.weight
    assert module.head.weight[0, 0].item() == 1.0


def test_half_precision_weights_are_averaged_in_full_precision() -> None:
    """In bfloat16 a thousandth of a step towards 1 from 1/2 would round to nothing."""
    module = nn.Linear(3, 2).to(torch.bfloat16)
    fill(module, 0.5)
    ema = Ema(module, decay=0.999, start_step=0, every=1, decay_at=lambda step: 0.999)
    fill(module, 1.0)
    for step in range(1, 101):
        ema.update(step)
    assert weight(ema, "weight") == pytest.approx(1 - 0.5 * 0.999**100, rel=1e-5)
    with ema.swapped_in(module):
        assert module.weight.dtype == torch.bfloat16
        assert module.weight[0, 0].item() == pytest.approx(weight(ema, "weight"), rel=4e-3)
    assert module.weight[0, 0].item() == 1.0


def test_it_follows_a_module_whose_tensors_were_replaced() -> None:
    module, ema = make(decay_at=lambda step: 0.5)
    module.load_state_dict({name: tensor + 2 for name, tensor in module.state_dict().items()}, assign=True)
    module.running = torch.full((3,), 4.0)
    ema.update(1)
    assert weight(ema) == 1.0
    assert weight(ema, "running") == 2.0


def lose(weights: dict[str, Tensor]) -> None:
    del weights["linear.bias"]


def add(weights: dict[str, Tensor]) -> None:
    weights["linear.extra"] = torch.zeros(1)


def resize(weights: dict[str, Tensor]) -> None:
    weights["linear.weight"] = torch.zeros(4, 2)


@pytest.mark.parametrize("spoil", [lose, add, resize])
def test_an_average_of_another_model_is_refused_whole(spoil: Any) -> None:
    _, ema = make()
    weights = {name: torch.ones_like(tensor) for name, tensor in ema.state_dict()["weights"].items()}
    spoil(weights)
    with pytest.raises(CheckpointError, match=r"1 tensors differ, such as `linear\."):
        ema.load_state_dict({"weights": weights})
    assert weight(ema) == 0.0


def test_a_frozen_parameter_is_its_own_average() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    net[0].requires_grad_(False)
    ema = Ema(net, decay=0.9, start_step=0, every=1)
    kept = ema.state_dict()["weights"]
    assert kept["0.weight"].data_ptr() == net[0].weight.data_ptr()  # no second copy
    with torch.no_grad():
        net[0].weight.add_(1)  # as a base that is loaded later does
        net[1].weight.add_(1)
    ema.update(1)
    average = ema.state_dict()["weights"]
    assert torch.equal(average["0.weight"], net[0].weight)
    assert not torch.equal(average["1.weight"], net[1].weight)
    gap = torch.linalg.vector_norm(average["1.weight"] - net[1].weight.detach())
    size = torch.linalg.vector_norm(torch.cat([parameter.detach().flatten() for parameter in net.parameters()]))
    assert float(ema.distance(net)) == pytest.approx(float(gap / size), rel=1e-6)


def test_an_average_from_before_a_parameter_was_frozen_is_kept() -> None:
    net = nn.Linear(3, 2)
    before = Ema(net, decay=0.9, start_step=0, every=1)
    with torch.no_grad():
        net.weight.add_(1)
    saved = {"weights": {name: tensor.clone() for name, tensor in before.state_dict()["weights"].items()}}
    net.weight.requires_grad_(False)
    after = Ema(net, decay=0.9, start_step=0, every=1)
    after.load_state_dict(saved)
    assert torch.equal(after.state_dict()["weights"]["weight"], saved["weights"]["weight"])
    with after.swapped_in(net):
        assert torch.equal(net.weight, saved["weights"]["weight"])
    assert not torch.equal(net.weight, saved["weights"]["weight"])
