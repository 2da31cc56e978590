"""Stochastic rounding keeps on average what nearest rounding loses."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from ttstrain.errors import RecipeError
from ttstrain.optim import rounded
from ttstrain.optim.groups import build_groups
from ttstrain.optim.optimizers import Optimizers
from ttstrain.optim.rounded import RoundedAdamW, round_stochastically
from ttstrain.recipe.schema import OptimConfig


def test_rounding_is_right_on_average_and_to_a_neighbour() -> None:
    values = torch.tensor([1.0 + 1 / 512, 1.0, -3.01, 1e-20, 0.0]).repeat(20_000, 1)
    rounded = round_stochastically(values, torch.Generator().manual_seed(0))
    assert rounded.dtype == torch.bfloat16
    up = float((rounded[:, 0] > 1).float().mean())
    assert up == pytest.approx(0.25, abs=0.02)  # a quarter of the way from 1 to the next bf16, 1 + 1/128
    assert bool((rounded[:, 1] == 1).all())  # what bf16 has stays as it is
    torch.testing.assert_close(rounded.double().mean(0), values[0].double(), rtol=1e-4, atol=0)
    for column, value in enumerate(values[0]):
        assert len(rounded[:, column].unique()) <= 2
        assert float((rounded[:, column].float() - value).abs().max()) <= abs(float(value)) / 128


def group(parameter: torch.nn.Parameter, **options: Any) -> dict[str, Any]:
    return {
        "params": [parameter],
        "names": ["weight"],
        "lr": 1e-3,
        "betas": (0.9, 0.99),
        "weight_decay": 0.1,
        **options,
    }


def test_fp32_weights_are_moved_as_by_torch_s_adamw() -> None:
    ours, theirs = (torch.nn.Parameter(torch.linspace(-1, 1, 50)) for _ in range(2))
    optimizers = RoundedAdamW([group(ours)], eps=1e-8, seed=0), torch.optim.AdamW([group(theirs)], eps=1e-8)
    for _ in range(10):
        gradient = torch.randn(50)
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shape", [(37, 11), (300,), (2, 5, 30)])
def test_large_weights_are_updated_in_pieces(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    exact, whole = (torch.nn.Parameter(torch.randn(shape)) for _ in range(2))
    whole.data.copy_(exact.data)
    half = torch.nn.Parameter(exact.detach().bfloat16())
    start = half.detach().clone()
    optimizers = [RoundedAdamW([group(own)], eps=1e-8, seed=0) for own in (whole, exact, half)]
    for own in (whole, exact, half):
        own.grad = torch.linspace(-1, 1, own.numel()).view(shape).to(own.dtype)
    optimizers[0].step()
    monkeypatch.setattr(rounded, "PIECE", 100)
    optimizers[1].step()
    optimizers[2].step()
    assert torch.equal(exact, whole)
    for key in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(optimizers[1].state[exact][key], optimizers[0].state[whole][key])
    moved = (half - start).float().abs()
    assert float((moved > 0).float().mean()) > 0.1
    assert bool((moved <= start.float().abs() / 64 + 2e-3).all())
    assert optimizers[2].state[half]["step"] == 1


def test_small_updates_of_bf16_weights_add_up() -> None:
    """An LR far below bf16's steps moves the weights as far as fp32 would; nearest rounding moves none."""
    start, lr, steps = 1.0, 1e-4, 200
    ours = torch.nn.Parameter(torch.full((4000,), start, dtype=torch.bfloat16))
    nearest = torch.nn.Parameter(ours.detach().clone())
    pair = (
        RoundedAdamW([group(ours, lr=lr, weight_decay=0.0)], eps=1e-8, seed=0),
        torch.optim.AdamW([nearest], lr=lr, weight_decay=0),
    )
    for _ in range(steps):
        for parameter, optimizer in zip((ours, nearest), pair, strict=True):
            parameter.grad = torch.ones_like(parameter)
            optimizer.step()
    assert float(nearest.detach().float().mean()) == start
    assert float(ours.detach().float().mean()) == pytest.approx(start - lr * steps, abs=2e-3)


def optimizers_of(module: torch.nn.Module, kind: str) -> Optimizers:
    optim = OptimConfig.model_validate({"kind": kind, "lr": 1e-2, "schedule": {"kind": "constant", "warmup_steps": 0}})
    table = build_groups({"model": module}, list(module.named_parameters()), optim)
    return Optimizers.build(table, total_steps=10, steps_per_epoch=10)


def test_bf16_weights_get_it_and_its_state_comes_back() -> None:
    module = torch.nn.Linear(8, 8).to(torch.bfloat16)
    first = optimizers_of(module, "adamw")
    module(torch.ones(2, 8, dtype=torch.bfloat16)).sum().backward()
    first.step("model")
    saved = first.state_dict()
    assert saved["model"]["weight"]["exp_avg"].dtype == torch.float32
    other = optimizers_of(module, "adamw")
    other.load_state_dict(saved)
    again = other.state_dict()["model"]["weight"]
    assert torch.equal(again["exp_avg_sq"], saved["model"]["weight"]["exp_avg_sq"])
    assert float(again["step"]) == 1


@pytest.mark.parametrize("kind", ["lion", "sgd", "muon"])
def test_kinds_that_would_lose_updates_are_refused(kind: str) -> None:
    with pytest.raises(RecipeError, match="drop most updates"):
        optimizers_of(torch.nn.Linear(8, 8).to(torch.bfloat16), kind)


def rounded_after(steps: int, *, seed: int = 0, name: str = "weight", resumed_at: int | None = None) -> torch.Tensor:
    """Train 300 bf16 values by updates of a tenth of bf16's steps, and return them."""
    parameter = torch.nn.Parameter(torch.ones(300, dtype=torch.bfloat16))
    groups = [group(parameter, lr=1e-3, names=[name])]
    optimizer = RoundedAdamW(groups, eps=1e-8, seed=seed)
    for step in range(steps):
        if step == resumed_at:
            state = dict(optimizer.state)
            optimizer = RoundedAdamW(groups, eps=1e-8, seed=seed)
            optimizer.state.update(state)
        torch.rand(step)  # what else draws
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    return parameter.detach()


def test_rounding_depends_on_the_seed_the_name_and_the_count_of_updates_alone() -> None:
    before = torch.get_rng_state()
    expected = rounded_after(4)
    torch.manual_seed(123)
    assert torch.equal(rounded_after(4), expected)
    assert torch.equal(rounded_after(4, resumed_at=2), expected)
    assert not torch.equal(rounded_after(4, seed=1), expected)
    assert not torch.equal(rounded_after(4, name="bias"), expected)
    torch.set_rng_state(before)
    rounded_after(1)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_update_rounds_by_chance_of_its_own() -> None:
    """Were chance the same in every update, the values that were rounded down would stay where they are for good."""
    once, often = rounded_after(1), rounded_after(40)
    assert 0.05 < float((once != 1).float().mean()) < 0.4
    assert float((often != 1).float().mean()) > 0.95


def offloaded_and_plain(dtype: torch.dtype, **settings: Any) -> tuple[list[Optimizers], list[torch.nn.ModuleDict]]:
    """Make the optimizers of two equal nets, the first with its state on the host; one group has an LR of its own."""
    nets = [torch.nn.ModuleDict({"a": torch.nn.Linear(30, 20), "b": torch.nn.Linear(20, 1)}) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    groups = [{"name": "b", "match": ["b.*"], "lr_scale": 10, "frozen": (2, 4)}]
    found = []
    for net, offload in zip(nets, (True, False), strict=True):
        net.to(dtype)
        optim = OptimConfig.model_validate({"lr": 1e-2, "groups": groups, "offload": offload, **settings})
        table = build_groups({"model": net}, list(net.named_parameters()), optim)
        found.append(Optimizers.build(table, total_steps=20, steps_per_epoch=5))
    return found, nets


def train(optimizers: Optimizers, net: torch.nn.ModuleDict, steps: range, *, measured: bool = False) -> list[Any]:
    told: list[Any] = []
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for parameter in net.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        told.append(optimizers.set_lr(step))
        optimizers.clip("model")
        told.append(optimizers.measured_step("model") if measured else optimizers.step("model"))
    return told


@pytest.mark.parametrize("measured", [False, True])
def test_with_its_state_on_the_host_adamw_takes_the_same_steps(measured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against torch's own, in pieces, with groups, clipping, a group that is frozen for a while, and logged LRs."""
    monkeypatch.setattr(rounded, "PIECE", 100)
    pair, nets = offloaded_and_plain(torch.float32)
    told = [train(own, net, range(8), measured=measured) for own, net in zip(pair, nets, strict=True)]
    assert told[0][::2] == told[1][::2]  # LRs
    torch.testing.assert_close(dict(nets[0].state_dict()), dict(nets[1].state_dict()), rtol=1e-6, atol=1e-7)
    states = [own.state_dict()["model"] for own in pair]
    for name, state in states[1].items():
        for key in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(states[0][name][key], state[key], rtol=1e-5, atol=1e-8)
        assert float(states[0][name]["step"]) == float(state["step"]) == (6 if name.startswith("b") else 8)


def test_bf16_weights_are_rounded_alike_wherever_the_state_lies() -> None:
    pair, nets = offloaded_and_plain(torch.bfloat16)
    for own, net in zip(pair, nets, strict=True):
        train(own, net, range(5))
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))


def test_offloaded_state_is_restored_bit_for_bit_into_the_same_memory() -> None:
    (own, _), (net, _) = offloaded_and_plain(torch.float32)
    train(own, net, range(3))
    weights, state = copy.deepcopy(net.state_dict()), copy.deepcopy(own.state_dict())
    places = [one["exp_avg"].data_ptr() for one in own.state_dict()["model"].values()]
    train(own, net, range(3, 6))
    expected = copy.deepcopy(net.state_dict())
    net.load_state_dict(weights)
    own.load_state_dict(state)  # as a rollback does
    assert [one["exp_avg"].data_ptr() for one in own.state_dict()["model"].values()] == places
    train(own, net, range(3, 6))
    (fresh, _), (other, _) = offloaded_and_plain(torch.float32)
    other.load_state_dict(weights)
    fresh.load_state_dict(state)  # as a resume does
    train(fresh, other, range(3, 6))
    for name, wanted in expected.items():
        assert torch.equal(net.state_dict()[name], wanted) and torch.equal(other.state_dict()[name], wanted)
