"""The optimizers of a run: their LR, gradients, updates and state."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ttstrain.errors import CheckpointError
from ttstrain.optim import measured
from ttstrain.optim.groups import build_groups
from ttstrain.optim.optimizers import Optimizers
from ttstrain.optim.schedule import lr_at
from ttstrain.recipe.schema import Constant, Cosine, GroupRule, OptimConfig, OptimizerOverride
from ttstrain.state import detach_copy

TOTAL = 40
FLAT = Constant(warmup_steps=0)
KINDS = ["adamw", "sgd", "lion", "adan", "muon"]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.text = nn.Embedding(7, 6)
        self.body = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.LayerNorm(9), nn.Linear(9, 4))

    def forward(self, ids: Tensor) -> Tensor:  # (b,) -> (b, 4)
        return self.body(self.text(ids))


class Gan(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = Net()
        self.discriminator = nn.Linear(4, 1)


def optimizers_for(model: nn.Module, total: int = TOTAL, **optim: Any) -> Optimizers:
    modules = dict(model.named_children()) if isinstance(model, Gan) else {"model": model}
    table = build_groups(modules, model.named_parameters(), OptimConfig(**optim))
    return Optimizers.build(table, total_steps=total, steps_per_epoch=10.0)


def give_gradients(model: nn.Module, step: int) -> None:
    """A gradient that depends on the weights and the step, so that a wrong update shows in the next one."""
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter.grad = parameter.detach() * 0.3 + noise


def train(model: nn.Module, optimizers: Optimizers, steps: range) -> None:
    for step in steps:
        optimizers.set_lr(step)
        give_gradients(model, step)
        for name in optimizers.names:
            optimizers.clip(name)
            optimizers.step(name)
            optimizers.zero_grad(name)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def reference(model: nn.Module, make: Callable[[list[dict[str, Any]]], torch.optim.Optimizer], **optim: Any) -> Any:
    """Train a copy with a plain torch optimizer, torch's clipping and a hand-written loop."""
    config = OptimConfig(**optim)
    twin = copy.deepcopy(model)
    named = list(twin.named_parameters())
    optimizer = make(
        [
            {"params": [p for _, p in named if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for _, p in named if p.ndim <= 1], "weight_decay": 0.0},
        ]
    )
    for step in range(12):
        give_gradients(twin, step)
        for group in optimizer.param_groups:
            group["lr"] = lr_at(config.schedule, step=step, base_lr=config.lr, total_steps=TOTAL, steps_per_epoch=10.0)
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0, foreach=False)
        optimizer.step()
    return twin


# ---------------------------------------------------------------- updates


def test_adamw_is_torchs_plain_loop() -> None:
    model = Net()
    settings: dict[str, Any] = {"lr": 3e-3, "weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-7}
    theirs = reference(
        model,
        lambda groups: torch.optim.AdamW(groups, betas=(0.8, 0.95), eps=1e-7, foreach=False, fused=False),
        **settings,
    )
    train(model, optimizers_for(model, **settings), range(12))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, theirs.get_parameter(name), rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_torchs_plain_loop(momentum: float) -> None:
    model = Net()
    settings: dict[str, Any] = {"kind": "sgd", "lr": 3e-2, "weight_decay": 0.1, "momentum": momentum}
    theirs = reference(
        model,
        lambda groups: torch.optim.SGD(groups, lr=1.0, momentum=momentum, foreach=False, fused=False),
        **settings,
    )
    train(model, optimizers_for(model, **settings), range(12))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, theirs.get_parameter(name), rtol=2e-6, atol=2e-7)


def test_sgd_takes_a_first_gradient_after_others_have_momentum() -> None:
    model = Net()
    optimizers = optimizers_for(model, kind="sgd", lr=3e-2, momentum=0.9, schedule=FLAT)
    for step in range(2):
        give_gradients(model, step)
        if step == 0:
            model.text.weight.grad = None
        before = model.text.weight.detach().clone()
        optimizers.step("model")
        assert torch.equal(model.text.weight, before) is (step == 0)


def test_adamw_of_weights_that_lie_transposed_in_memory_is_torchs_plain_loop() -> None:
    weight = torch.randn(5, 3)
    ours, theirs = nn.ParameterDict({"w": nn.Parameter(weight.t())}), nn.Parameter(weight.t().contiguous())
    optimizers = optimizers_for(ours, lr=1e-2, schedule=FLAT)
    plain = torch.optim.AdamW([theirs], lr=1e-2, weight_decay=0.01, foreach=False, fused=False)
    for _ in range(4):
        for parameter in (ours["w"], theirs):
            parameter.grad = None
            (parameter.square() * torch.arange(15.0).view(3, 5)).sum().backward()
        optimizers.step("model")
        plain.step()
        saved = {key: value.contiguous() for key, value in optimizers.state_dict()["model"]["w"].items()}
        optimizers.load_state_dict({"model": {"w": {}}})  # as from a file: fresh memory, rows in order
        optimizers.load_state_dict({"model": {"w": saved}})
    torch.testing.assert_close(ours["w"], theirs, rtol=1e-6, atol=1e-7)


def test_rules_reach_the_update() -> None:
    """Two groups with their own LR, betas and decay, against two torch optimizers."""
    model = Net()
    twin = copy.deepcopy(model)
    rule = GroupRule(name="text", match=["text.*"], lr=1e-2, betas=(0.5, 0.9), weight_decay=0.4)
    optimizers = optimizers_for(
        model, lr=1e-3, weight_decay=0.0, groups=[rule], schedule=FLAT, decay_norms_and_biases=True, max_grad_norm=None
    )
    text = torch.optim.AdamW(twin.text.parameters(), lr=1e-2, betas=(0.5, 0.9), weight_decay=0.4, foreach=False)
    body = torch.optim.AdamW(twin.body.parameters(), lr=1e-3, weight_decay=0.0, foreach=False)
    for step in range(5):
        give_gradients(twin, step)
        text.step()
        body.step()
    train(model, optimizers, range(5))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, twin.get_parameter(name), rtol=2e-6, atol=2e-7)


def test_stepping_one_optimizer_leaves_the_other_alone() -> None:
    model = Gan()
    optimizers = optimizers_for(model, lr=1e-2, optimizers={"discriminator": OptimizerOverride(lr=0.1, kind="sgd")})
    before = weights_of(model)
    give_gradients(model, 0)
    optimizers.step("discriminator")
    optimizers.zero_grad("discriminator")
    after = weights_of(model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"discriminator.weight", "discriminator.bias"}
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == sorted(changed)[::-1]


# ---------------------------------------------------------------- learning rate


class Spy:
    """Records the LR that torch's optimizers are stepped with."""

    def __init__(self, optimizers: Optimizers) -> None:
        self.seen: list[dict[str, float]] = []
        for optimizer in optimizers._optimizers.values():
            for part in optimizer.parts:
                part.optimizer.register_step_pre_hook(self.look)

    def look(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self.seen.append({str(tuple(group["params"][0].shape)): group["lr"] for group in optimizer.param_groups})


def test_the_logged_lr_is_the_lr_that_stepped() -> None:
    model = Net()
    rule = GroupRule(name="text", match=["text.*"], lr=1e-2, schedule=Cosine(warmup_steps=2))
    optimizers = optimizers_for(model, lr=1e-3, groups=[rule])
    spy = Spy(optimizers)
    for step in range(TOTAL):
        returned = optimizers.set_lr(step)
        logged = optimizers.logged_lrs()
        give_gradients(model, step)
        optimizers.step("model")
        assert logged == returned == {"model/text": spy.seen[-1]["(7, 6)"], "model/default": spy.seen[-1]["(9, 6)"]}
        assert logged["model/text"] == lr_at(
            rule.schedule, step=step, base_lr=1e-2, total_steps=TOTAL, steps_per_epoch=1
        )
    assert len({row["(9, 6)"] for row in spy.seen}) > TOTAL // 2


def test_a_factor_lowers_every_lr() -> None:
    optimizers = optimizers_for(Gan(), lr=1e-3, schedule=FLAT, optimizers={"generator": OptimizerOverride(lr=1e-4)})
    assert optimizers.set_lr(5, factor=0.5) == {"generator/default": 0.5e-4, "discriminator/default": 0.5e-3}
    assert optimizers.logged_lrs()["generator/default"] == 0.5e-4
    assert optimizers.set_lr(5)["generator/default"] == 1e-4


# ---------------------------------------------------------------- frozen ranges


def frozen_between(model: nn.Module, start: int, end: int, **optim: Any) -> Optimizers:
    rule = GroupRule(name="text", match=["text.*"], frozen=(start, end), schedule=FLAT)
    return optimizers_for(model, groups=[rule], lr=1e-2, weight_decay=0.1, **optim)


@pytest.mark.parametrize("kind", ["adamw", "sgd", "lion", "adan", "muon"])
def test_a_frozen_group_keeps_weights_and_moments_in_its_range_only(kind: Any) -> None:
    model = Net()
    optimizers = frozen_between(model, 3, 6, kind=kind)
    moved, moments = [], []
    for step in range(8):
        weights = model.text.weight.clone()
        state = detach_copy(optimizers.state_dict()["model"]["text.weight"])
        train(model, optimizers, range(step, step + 1))
        moved.append(not torch.equal(weights, model.text.weight))
        now = optimizers.state_dict()["model"]["text.weight"]
        moments.append(state.keys() != now.keys() or any(not torch.equal(state[key], now[key]) for key in state))
    assert moved == moments == [True, True, True, False, False, False, True, True]


def test_a_frozen_group_is_not_among_what_trains_is_clipped_or_has_an_lr() -> None:
    model = Net()
    optimizers = frozen_between(model, 3, 6)
    for step, trains in ((2, True), (3, False), (5, False), (6, True)):
        optimizers.set_lr(step)
        assert any(parameter is model.text.weight for parameter in optimizers.params("model")) is trains
        assert optimizers.logged_lrs()["model/text"] == (1e-2 if trains else 0.0)
        give_gradients(model, step)
        model.text.weight.grad.fill_(1e9)
        assert bool(optimizers.clip("model") > 1e6) is trains
        assert ("text" in optimizers.grad_norms("model")) is trains


def test_everything_frozen_has_a_norm_of_zero_and_steps_to_nowhere() -> None:
    model = Net()
    rule = GroupRule(name="all", match=["*"], frozen=(0, 2))
    optimizers = optimizers_for(model, groups=[rule], lr=1e-2)
    before = weights_of(model)
    assert optimizers.params("model") == []
    give_gradients(model, 0)
    assert float(optimizers.clip("model")) == 0.0
    optimizers.step("model")
    assert_equal(weights_of(model), before)


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize("max_norm", [0.5, 3.0, 1e6])
def test_clipping_is_torchs(max_norm: float) -> None:
    model = Net()
    twin = copy.deepcopy(model)
    optimizers = optimizers_for(model, max_grad_norm=max_norm)
    give_gradients(model, 0)
    give_gradients(twin, 0)
    theirs = torch.nn.utils.clip_grad_norm_(twin.parameters(), max_norm)
    torch.testing.assert_close(optimizers.clip("model"), theirs, rtol=1e-6, atol=0)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, twin.get_parameter(name).grad, rtol=1e-6, atol=0)


@pytest.mark.parametrize("others", [0.7, None])
def test_a_group_with_a_norm_of_its_own_is_clipped_apart_from_the_others(others: float | None) -> None:
    model = Net()
    twin = copy.deepcopy(model)
    rule = GroupRule(name="body", match=["body.*"], max_grad_norm=0.2, layer_decay=0.9)  # layers are clipped together
    optimizers = optimizers_for(model, groups=[rule], max_grad_norm=others)
    give_gradients(model, 0)
    give_gradients(twin, 0)
    total = torch.nn.utils.clip_grad_norm_(twin.parameters(), 1e9)
    torch.nn.utils.clip_grad_norm_(twin.body.parameters(), 0.2)
    if others is not None:
        torch.nn.utils.clip_grad_norm_(twin.text.parameters(), others)
    torch.testing.assert_close(optimizers.clip("model"), total, rtol=1e-6, atol=0)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, twin.get_parameter(name).grad, rtol=1e-6, atol=0)


def test_a_large_gradient_does_not_shrink_a_group_that_is_clipped_by_itself() -> None:
    updates = []
    for scale in (1.0, 1e3):
        model = Net()
        torch.nn.init.constant_(model.text.weight, 0.5)
        rule = GroupRule(name="text", match=["text.*"], max_grad_norm=1.0)
        optimizers = optimizers_for(model, kind="sgd", lr=0.1, weight_decay=0.0, groups=[rule], schedule=FLAT)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter) * (0.01 if parameter is model.text.weight else scale)
        optimizers.clip("model")
        optimizers.step("model")
        updates.append(model.text.weight.detach().clone())
    assert torch.equal(*updates)


def test_without_a_maximum_gradients_are_only_measured() -> None:
    model = Net()
    optimizers = optimizers_for(model, max_grad_norm=None)
    give_gradients(model, 0)
    before = [parameter.grad.clone() for parameter in model.parameters()]
    total = optimizers.clip("model")
    assert float(total) == pytest.approx(float(torch.cat([grad.flatten() for grad in before]).norm()), rel=1e-6)
    assert all(torch.equal(p.grad, old) for p, old in zip(model.parameters(), before, strict=True))


def test_group_norms_are_those_of_the_groups_gradients_and_add_up() -> None:
    model = Net()
    optimizers = optimizers_for(model, groups=[GroupRule(name="text", match=["text.*"])], max_grad_norm=0.1)
    give_gradients(model, 0)
    body = torch.cat([parameter.grad.flatten() for parameter in model.body.parameters()])
    norms = optimizers.norms("model")
    assert float(norms.groups["text"]) == pytest.approx(float(model.text.weight.grad.norm()), rel=1e-6)
    assert float(norms.groups["default"]) == pytest.approx(float(body.norm()), rel=1e-6)
    assert float(norms.total) == pytest.approx(sum(float(n) ** 2 for n in norms.groups.values()) ** 0.5, rel=1e-6)
    assert optimizers.clip("model", norms=norms) is norms.total
    assert float(optimizers.norms("model").total) == pytest.approx(0.1, rel=1e-4)


def test_norms_of_half_precision_gradients_are_taken_in_full_precision() -> None:
    model = nn.Linear(300, 300, bias=False).to(torch.bfloat16)
    optimizers = optimizers_for(model, max_grad_norm=None)
    model.weight.grad = torch.full_like(model.weight, 1.0)
    assert optimizers.clip("model").dtype == torch.float32
    assert float(optimizers.clip("model")) == 300.0


def test_parameters_without_a_gradient_count_for_nothing() -> None:
    model = Net()
    optimizers = optimizers_for(model, groups=[GroupRule(name="text", match=["text.*"])])
    model.body[0].bias.grad = torch.full((9,), 2.0)
    norms = optimizers.norms("model")
    assert {name: float(norm) for name, norm in norms.groups.items()} == {"text": 0.0, "default": 6.0}


def test_a_gradient_that_is_not_finite_shows_in_the_norm() -> None:
    model = Net()
    optimizers = optimizers_for(model)
    for value in (float("nan"), float("inf")):
        give_gradients(model, 0)
        model.body[0].bias.grad[3] = value
        assert not torch.isfinite(optimizers.clip("model"))


def test_update_ratio_is_the_change_over_the_weights() -> None:
    model = Net()
    optimizers = optimizers_for(model, lr=1e-2, groups=[GroupRule(name="text", match=["text.*"])], schedule=FLAT)
    before = weights_of(model)
    give_gradients(model, 0)
    ratios = optimizers.measured_step("model")
    after = weights_of(model)

    def ratio(names: list[str]) -> float:
        change = torch.cat([(after[name] - before[name]).flatten() for name in names]).norm()
        return float(change / torch.cat([before[name].flatten() for name in names]).norm())

    assert float(ratios["text"]) == pytest.approx(ratio(["text.weight"]), rel=1e-5)
    assert float(ratios["default"]) == pytest.approx(ratio([name for name in before if name[0] == "b"]), rel=1e-5)


def test_update_ratio_of_weights_that_were_zero_is_finite() -> None:
    model = nn.Linear(3, 3, bias=False)
    nn.init.zeros_(model.weight)
    optimizers = optimizers_for(model)
    give_gradients(model, 0)
    ratios = optimizers.measured_step("model")
    assert torch.isfinite(ratios["default"])


@pytest.mark.parametrize("kind", [*KINDS, "scaled_adam"])
def test_a_measured_step_in_pieces_is_the_step(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "PIECE_BYTES", 4 * 60)  # one or two tensors
    plain, watched = (copy.deepcopy(model) for model in [Net()] * 2)
    groups = [
        GroupRule(name="text", match=["text.*"], lr_scale=0.5),
        GroupRule(name="head", match=["body.3.*"], frozen=True),
    ]
    one, other = (optimizers_for(model, kind=kind, lr=1e-2, groups=groups) for model in (plain, watched))
    for step in range(4):
        before = weights_of(watched)
        for model, optimizers in ((plain, one), (watched, other)):
            optimizers.set_lr(step)
            give_gradients(model, step)
        one.step("model")
        ratios = other.measured_step("model")
        assert_equal(weights_of(watched), weights_of(plain))
        changed = (watched.text.weight - before["text.weight"]).norm() / before["text.weight"].norm()
        torch.testing.assert_close(ratios["text"], changed, rtol=1e-5, atol=0)
        assert set(ratios) == {"text", "default"}
    states = [own.state_dict()["model"] for own in (one, other)]
    torch.testing.assert_close(*states, rtol=0, atol=0)


# ---------------------------------------------------------------- state


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_cut_and_resumed_is_the_uninterrupted_run(kind: Any) -> None:
    whole = Net()
    cut = copy.deepcopy(whole)
    train(whole, optimizers_for(whole, kind=kind, lr=1e-2), range(9))

    first = optimizers_for(cut, kind=kind, lr=1e-2)
    train(cut, first, range(4))
    saved = detach_copy(first.state_dict())
    resumed = Net()
    resumed.load_state_dict(cut.state_dict())
    second = optimizers_for(resumed, kind=kind, lr=1e-2)
    second.load_state_dict(saved)
    train(resumed, second, range(4, 9))
    assert_equal(weights_of(resumed), weights_of(whole))


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_gpu_a_run_resumed_from_host_memory_is_the_uninterrupted_run(kind: Any) -> None:
    whole = Net().cuda()
    cut = copy.deepcopy(whole)
    train(whole, optimizers_for(whole, kind=kind, lr=1e-2), range(6))
    first = optimizers_for(cut, kind=kind, lr=1e-2)
    train(cut, first, range(3))
    second = optimizers_for(cut, kind=kind, lr=1e-2)
    second.load_state_dict(detach_copy(first.state_dict()))
    train(cut, second, range(3, 6))
    assert_equal(weights_of(cut), weights_of(whole))


@pytest.mark.parametrize("kind", KINDS)
def test_a_rollback_inside_the_process_is_exact_and_can_be_repeated(kind: Any) -> None:
    model = Net()
    optimizers = optimizers_for(model, kind=kind, lr=1e-2)
    train(model, optimizers, range(3))
    weights, state = weights_of(model), detach_copy(optimizers.state_dict())
    train(model, optimizers, range(3, 6))
    expected = weights_of(model)
    for _ in range(2):
        model.load_state_dict(weights)
        optimizers.load_state_dict(state)
        train(model, optimizers, range(3, 6))
        assert_equal(weights_of(model), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rollback_to_before_the_first_step_has_no_moments(kind: Any) -> None:
    model = Net()
    optimizers = optimizers_for(model, kind=kind, lr=1e-2)
    weights, state = weights_of(model), detach_copy(optimizers.state_dict())
    assert set(state["model"]) == {name for name, _ in model.named_parameters()}
    assert not any(state["model"].values())
    train(model, optimizers, range(3))
    expected = weights_of(model)
    model.load_state_dict(weights)
    optimizers.load_state_dict(state)
    assert not any(optimizers.state_dict()["model"].values())
    train(model, optimizers, range(3))
    assert_equal(weights_of(model), expected)


def test_state_goes_by_parameter_name_whatever_the_groups() -> None:
    """Moments find their parameters under other rules, in another order; the LR is the new plan's."""
    model = Net()
    old = optimizers_for(model, lr=1e-2)
    train(model, old, range(3))
    saved = detach_copy(old.state_dict())
    assert saved["model"]["body.0.weight"].keys() == {"step", "exp_avg", "exp_avg_sq"}
    assert "lr" not in str(saved)

    rules = [GroupRule(name="last", match=["body.3.*"], lr=5e-5), GroupRule(name="text", match=["text.*"])]
    new = optimizers_for(model, lr=1e-4, groups=rules, schedule=FLAT)
    new.load_state_dict(saved)
    restored = new.state_dict()
    for name, moments in saved["model"].items():
        assert_equal(restored["model"][name], moments)
    assert new.set_lr(3) == {"model/last": 5e-5, "model/text": 1e-4, "model/default": 1e-4}


def test_what_is_loaded_is_copied() -> None:
    model = Net()
    optimizers = optimizers_for(model, lr=1e-2)
    train(model, optimizers, range(2))
    state = detach_copy(optimizers.state_dict())
    kept = copy.deepcopy(state)
    fresh = optimizers_for(model, lr=1e-2)
    for target in (optimizers, fresh):
        target.load_state_dict(state)
        train(model, target, range(2, 4))
        for name, moments in kept["model"].items():
            assert_equal(state["model"][name], moments)


def drop_parameter(state: dict[str, Any]) -> None:
    del state["model"]["text.weight"]


def add_parameter(state: dict[str, Any]) -> None:
    state["model"]["body.9.weight"] = {}


def drop_optimizer(state: dict[str, Any]) -> None:
    state["generator"] = state.pop("model")


def resize(state: dict[str, Any]) -> None:
    state["model"]["text.weight"]["exp_avg"] = torch.zeros(8, 6)


def turn_into_lion(state: dict[str, Any]) -> None:
    del state["model"]["text.weight"]["exp_avg_sq"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop_parameter, "1 missing, such as `text.weight`"),
        (add_parameter, "1 unexpected, such as `body.9.weight`"),
        (drop_optimizer, "1 missing, such as `model`; 1 unexpected, such as `generator`"),
        (resize, r"`exp_avg` of `text.weight` has shape \(8, 6\), the parameter \(7, 6\)"),
        (turn_into_lion, "AdamW keeps exp_avg, exp_avg_sq, step"),
    ],
)
def test_moments_that_do_not_fit_are_refused_whole(spoil: Callable[[dict[str, Any]], None], message: str) -> None:
    model = Net()
    optimizers = optimizers_for(model)
    train(model, optimizers, range(2))
    state = detach_copy(optimizers.state_dict())
    train(model, optimizers, range(2, 4))
    before = detach_copy(optimizers.state_dict())
    spoil(state)
    with pytest.raises(CheckpointError, match=message) as caught:
        optimizers.load_state_dict(state)
    assert "--reset-optimizer" in (caught.value.hint or "")
    after = optimizers.state_dict()
    for name, moments in before["model"].items():
        assert_equal(after["model"][name], moments)
