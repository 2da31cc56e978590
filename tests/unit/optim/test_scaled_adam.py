"""ScaledAdam against upstream's, step by step, and through the engine's state."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ttstrain.optim.groups import build_groups
from ttstrain.optim.optimizers import Optimizers
from ttstrain.optim.scaled_adam import ScaledAdam
from ttstrain.recipe.schema import Constant, OptimConfig


def upstream_run(fixtures: Path) -> tuple[dict[str, object], dict[str, Tensor], dict[str, Tensor]]:
    folder = fixtures / "s1_scaled_adam"
    config = json.loads((folder / "config.json").read_text())
    return config, load_file(folder / "inputs.safetensors"), load_file(folder / "expected.safetensors")


@pytest.mark.parametrize("stacked", [False, True])
def test_forty_steps_are_upstreams(fixtures_dir: Path, stacked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clipping, sizes, scalars; also with tensors of a shape side by side, as on a GPU."""
    config, given, expected = upstream_run(fixtures_dir)
    parameters = [nn.Parameter(given[f"init.p{i}"].clone()) for i in range(len(config["shapes"]))]  # type: ignore[arg-type]
    group = {"params": parameters, "lr": config["lr_first"], "betas": tuple(config["betas"]), "weight_decay": 0.0}  # type: ignore[arg-type]
    optimizer = ScaledAdam(
        [group],
        eps=1e-8,
        clipping_scale=config["clipping_scale"],  # type: ignore[arg-type]
        clipping_period=config["clipping_update_period"],  # type: ignore[arg-type]
    )
    if stacked:
        monkeypatch.setattr(ScaledAdam, "_alone", staticmethod(lambda parameter: False))
    for step in range(40):
        for i, parameter in enumerate(parameters):
            # Upstream takes an absent gradient as zero, and so goes on moving by momentum.
            parameter.grad = given.get(f"grad.s{step:02}.p{i}", torch.zeros_like(parameter)).clone()
        optimizer.step()
        optimizer.param_groups[0]["lr"] = config["lr_then"]
        for i, parameter in enumerate(parameters):
            torch.testing.assert_close(
                parameter.detach(),
                expected[f"s{step:02}.p{i}"],
                atol=2e-6,
                rtol=2e-6,
                msg=f"step {step}, parameter {i}",
            )


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.alpha = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(torch.relu(self.first(x))) * self.alpha
        return out


def optimizers_for(net: Net) -> Optimizers:
    config = OptimConfig(kind="scaled_adam", lr=0.01, betas=(0.9, 0.95), schedule=Constant(warmup_steps=0))
    table = build_groups({"model": net}, net.named_parameters(), config)
    return Optimizers.build(table, total_steps=100, steps_per_epoch=1.0)


def train(net: Net, optimizers: Optimizers, steps: range) -> None:
    for step in steps:
        optimizers.set_lr(step)
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
        (net(x) - x.flip(1)).square().mean().backward()
        optimizers.step("model")
        optimizers.zero_grad("model")


@pytest.mark.parametrize("stacked", [False, True])
def test_a_resumed_run_goes_on_bitwise(stacked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if stacked:
        monkeypatch.setattr(ScaledAdam, "_alone", staticmethod(lambda parameter: False))
    net = Net()
    optimizers = optimizers_for(net)
    train(net, optimizers, range(6))
    weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    saved = {
        "model": {
            name: {key: value.clone() for key, value in state.items()}
            for name, state in optimizers.state_dict()["model"].items()
        }
    }
    train(net, optimizers, range(6, 13))

    other = Net()
    other.load_state_dict(weights)
    resumed = optimizers_for(other)
    resumed.load_state_dict(saved)
    train(other, resumed, range(6, 13))
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name

    # A rollback in place: the same state, loaded over a later one.
    net.load_state_dict(weights)
    optimizers.load_state_dict(saved)
    train(net, optimizers, range(6, 13))
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, net.state_dict()[name]), name


def test_a_step_moves_each_tensor_by_the_lr_of_its_size() -> None:
    parameter = nn.Parameter(torch.full((50, 50), 0.3))
    group = {"params": [parameter], "lr": 0.01, "betas": (0.9, 0.95), "weight_decay": 0.0}
    optimizer = ScaledAdam([group], eps=1e-8)
    for _ in range(100):
        before = parameter.detach().clone()
        parameter.grad = torch.full_like(parameter, 7.0) * torch.tensor([1.0, -1.0]).repeat(25)
        optimizer.step()
    change = (parameter.detach() - before).abs().mean()  # momentum is full by now
    assert float(change) == pytest.approx(0.01 * float(before.square().mean().sqrt()), rel=0.05)


def test_a_parameter_without_a_gradient_is_left_alone() -> None:
    net = Net()
    optimizers = optimizers_for(net)
    train(net, optimizers, range(3))
    before = net.first.weight.detach().clone()
    for parameter in (*net.second.parameters(), net.alpha):
        parameter.grad = torch.ones_like(parameter)
    optimizers.step("model")
    assert torch.equal(before, net.first.weight)
    assert not torch.equal(torch.ones(1), net.alpha)
