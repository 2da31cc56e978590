"""Lion, Adan and Muon against their papers' formulas; packages that may be missing."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from ttstrain.errors import RecipeError
from ttstrain.optim.groups import build_groups
from ttstrain.optim.optimizers import Optimizers
from ttstrain.recipe.schema import Constant, GroupRule, OptimConfig

Array = NDArray[np.float64]
LR, DECAY, BETAS = 1e-2, 0.1, (0.9, 0.98)
STEPS = 7


def optimizers_for(module: nn.Module, **optim: Any) -> Optimizers:
    config = OptimConfig(
        **{"lr": LR, "weight_decay": DECAY, "betas": BETAS, "max_grad_norm": None} | optim,
        schedule=Constant(warmup_steps=0),
        decay_norms_and_biases=True,
    )
    table = build_groups({"model": module}, module.named_parameters(), config)
    return Optimizers.build(table, total_steps=100, steps_per_epoch=1.0)


def gradients(shape: tuple[int, ...]) -> list[Array]:
    return list(np.random.default_rng(3).normal(size=(STEPS, *shape)))


def trained(kind: str, start: Array, grads: list[Array]) -> Array:
    module = nn.ParameterDict({"w": nn.Parameter(torch.tensor(start))})  # float64
    optimizers = optimizers_for(module, kind=kind)
    for grad in grads:
        module["w"].grad = torch.tensor(grad)
        optimizers.step("model")
    weights: Array = module["w"].detach().numpy()
    return weights


def test_lion_follows_its_paper() -> None:
    start, grads = np.linspace(-1, 1, 12).reshape(3, 4), gradients((3, 4))
    w, m = start.copy(), np.zeros_like(start)
    for g in grads:
        c = BETAS[0] * m + (1 - BETAS[0]) * g
        w = w - LR * (np.sign(c) + DECAY * w)
        m = BETAS[1] * m + (1 - BETAS[1]) * g
    np.testing.assert_allclose(trained("lion", start, grads), w, rtol=1e-13)


def test_adan_follows_its_paper() -> None:
    """Algorithm 1 in the paper's own letters, whose betas are what a moment takes in, plus Adam's bias corrections."""
    start, grads = np.linspace(-1, 1, 12).reshape(3, 4), gradients((3, 4))
    beta1, beta2, beta3 = 1 - BETAS[0], 0.08, 1 - BETAS[1]
    w, m, v, n = start.copy(), np.zeros_like(start), np.zeros_like(start), np.zeros_like(start)
    previous = grads[0]
    for k, g in enumerate(grads, start=1):
        m = (1 - beta1) * m + beta1 * g
        v = (1 - beta2) * v + beta2 * (g - previous)
        n = (1 - beta3) * n + beta3 * (g + (1 - beta2) * (g - previous)) ** 2
        m_hat, v_hat, n_hat = (x / (1 - (1 - b) ** k) for x, b in ((m, beta1), (v, beta2), (n, beta3)))
        eta = LR / (np.sqrt(n_hat) + 1e-8)
        w = (w - eta * (m_hat + (1 - beta2) * v_hat)) / (1 + DECAY * LR)
        previous = g
    np.testing.assert_allclose(trained("adan", start, grads), w, rtol=1e-12)


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.text = nn.Embedding(5, 8)
        self.linear = nn.Linear(8, 16)
        self.conv = nn.Conv1d(4, 4, 3)


def test_muon_moves_matrices_in_orthogonal_steps_and_the_rest_as_adamw() -> None:
    model, twin = Mixed(), Mixed()
    twin.load_state_dict(model.state_dict())
    optimizers = optimizers_for(model, kind="muon", weight_decay=0.0)
    others = [parameter for name, parameter in twin.named_parameters() if name != "linear.weight"]
    adamw = torch.optim.AdamW(others, lr=LR, betas=BETAS, weight_decay=0.0, foreach=False)
    for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        mine.grad = torch.randn_like(mine)
        theirs.grad = mine.grad.clone()
    before, gradient = model.linear.weight.detach().clone(), model.linear.weight.grad.clone()
    optimizers.step("model")
    adamw.step()

    change = (model.linear.weight.detach() - before).double()
    u, _, vh = torch.linalg.svd(gradient.double(), full_matrices=False)
    # Newton-Schulz brings singular values near 1, not to it; the size of the step is 0.2 sqrt(longer side), as AdamW's.
    sizes = torch.linalg.svdvals(change) / (LR * 0.2 * 16**0.5)
    assert float(sizes.min()) > 0.5
    assert float(sizes.max()) < 1.5
    cosine = -(change * (u @ vh)).sum() / (change.norm() * (u @ vh).norm())
    assert float(cosine) > 0.97
    for name, parameter in model.named_parameters():
        if name != "linear.weight":
            torch.testing.assert_close(parameter, twin.get_parameter(name), rtol=1e-6, atol=1e-7)


def test_muon_without_matrices_is_adamw_and_without_the_rest_is_muon() -> None:
    for module in (nn.Conv1d(2, 2, 3), nn.Linear(3, 3, bias=False)):
        optimizers = optimizers_for(module, kind="muon")
        before = next(module.parameters()).detach().clone()
        for parameter in module.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizers.step("model")
        assert not torch.equal(before, next(module.parameters()))
        assert set(optimizers.logged_lrs()) == {"model/default"}


@pytest.mark.parametrize(
    ("kind", "package", "install"),
    [
        ("adamw8bit", "bitsandbytes", "ttstrain[adamw8bit]"),
        ("prodigy", "prodigyopt", "ttstrain[optimizers]"),
        ("schedule_free_adamw", "schedulefree", "ttstrain[optimizers]"),
    ],
)
def test_a_missing_package_is_named_with_the_way_to_install_it(
    kind: str, package: str, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RecipeError, match=f"`{kind}` needs the package `{package}`") as caught:
        optimizers_for(nn.Linear(2, 2), kind=kind)
    assert install in (caught.value.hint or "")


# ---------------------------------------------------------------- optional packages, where they are installed


def run_steps(model: nn.Module, optimizers: Optimizers, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for parameter in model.parameters():
            parameter.grad = parameter.detach() * 0.3 + torch.randn(parameter.shape, generator=generator)
        optimizers.set_lr(step)
        optimizers.step("model")
        optimizers.zero_grad("model")


@pytest.mark.parametrize(
    ("kind", "package"),
    [("adamw8bit", "bitsandbytes"), ("prodigy", "prodigyopt"), ("schedule_free_adamw", "schedulefree")],
)
def test_an_optional_optimizer_resumes_and_rolls_back_exactly(kind: str, package: str) -> None:
    pytest.importorskip(package)
    whole, cut = nn.Linear(80, 80), nn.Linear(80, 80)
    cut.load_state_dict(whole.state_dict())
    start = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    reference = optimizers_for(whole, kind=kind)
    empty = reference.state_dict()
    run_steps(whole, reference, range(6))
    expected = {name: tensor.clone() for name, tensor in whole.state_dict().items()}

    first = optimizers_for(cut, kind=kind)
    run_steps(cut, first, range(3))
    second = optimizers_for(cut, kind=kind)
    second.load_state_dict(first.state_dict())
    run_steps(cut, second, range(3, 6))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in cut.state_dict().items())

    whole.load_state_dict(start)
    reference.load_state_dict(empty)
    run_steps(whole, reference, range(6))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in whole.state_dict().items())


def test_schedule_free_evaluates_on_its_average_and_trains_on_exactly_as_if_it_had_not() -> None:
    package = pytest.importorskip("schedulefree")
    model, twin = nn.Linear(4, 4), nn.Linear(4, 4)
    twin.load_state_dict(model.state_dict())
    optimizers = optimizers_for(model, kind="schedule_free_adamw")
    theirs = package.AdamWScheduleFree(twin.parameters(), lr=LR, betas=BETAS, weight_decay=DECAY)
    theirs.train()
    run_steps(model, optimizers, range(4))
    for step in range(4):
        generator = torch.Generator().manual_seed(step)
        for parameter in twin.parameters():
            parameter.grad = parameter.detach() * 0.3 + torch.randn(parameter.shape, generator=generator)
        theirs.step()
    assert torch.equal(model.weight, twin.weight)
    training = model.weight.detach().clone()
    theirs.eval()
    with optimizers.evaluating():
        assert torch.equal(model.weight, twin.weight)
        assert not torch.equal(model.weight, training)
    assert torch.equal(model.weight, training)
    run_steps(model, optimizers, range(4, 5))


def test_schedule_free_refuses_a_range_of_frozen_steps() -> None:
    pytest.importorskip("schedulefree")
    rule = GroupRule(name="weight", match=["weight"], frozen=(0, 5))
    with pytest.raises(RecipeError, match="range of frozen steps"):
        optimizers_for(nn.Linear(4, 4), kind="schedule_free_adamw", groups=[rule])


def test_other_optimizers_evaluate_on_the_weights_as_they_are() -> None:
    model = nn.Linear(4, 4)
    before = model.weight.detach().clone()
    with optimizers_for(model).evaluating():
        assert torch.equal(model.weight, before)
