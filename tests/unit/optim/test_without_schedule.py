"""Optimizers that need no LR or no schedule, against their authors' packages called by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ttstrain.errors import RecipeError
from ttstrain.optim.groups import build_groups
from ttstrain.optim.optimizers import Optimizers
from ttstrain.recipe.schema import Constant, Cosine, GroupRule, OptimConfig, OptimizerOverride, Schedule
from ttstrain.state import detach_copy

TOTAL = 60
FLAT = Constant(warmup_steps=0)
TEXT = {"name": "text", "match": ["0.*"]}


def net() -> nn.Sequential:
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def optimizers_for(module: nn.Module, *, schedule: Schedule = FLAT, **optim: Any) -> Optimizers:
    config = OptimConfig(**{"max_grad_norm": None, "lr": 1e-2} | optim, schedule=schedule)
    table = build_groups({"model": module}, module.named_parameters(), config)
    return Optimizers.build(table, total_steps=TOTAL, steps_per_epoch=10.0)


def give_gradients(module: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(1000 + step)
    x, y = torch.randn(16, 6, generator=generator), torch.randn(16, 3, generator=generator)
    module.zero_grad()
    ((module(x) - y.cumsum(1) - 2.0) ** 2).mean().backward()


def train(module: nn.Module, optimizers: Optimizers, steps: range) -> list[dict[str, float]]:
    """Return the LRs that were logged, one row per update."""
    rows = []
    for step in steps:
        optimizers.set_lr(step)
        rows.append(optimizers.logged_lrs())
        give_gradients(module, step)
        optimizers.clip("model")
        optimizers.step("model")
    return rows


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def by_hand(module: nn.Module, d_coef: float = 1.0) -> Any:
    """The authors' optimizer with their settings for diffusion models; biases do not decay here."""
    package = pytest.importorskip("prodigyopt")
    vectors = [parameter for parameter in module.parameters() if parameter.ndim == 1]
    matrices = [parameter for parameter in module.parameters() if parameter.ndim == 2]
    return package.Prodigy(
        [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}],
        safeguard_warmup=True,
        use_bias_correction=True,
        d_coef=d_coef,
    )


# ---------------------------------------------------------------- Prodigy


def test_prodigy_trains_as_its_authors_package_and_logs_the_lr_of_each_update() -> None:
    ours, theirs = net(), net()
    reference = by_hand(theirs)
    optimizers = optimizers_for(ours, kind="prodigy", lr=0.5)  # `lr` is not used
    rows = train(ours, optimizers, range(TOTAL))
    expected = []
    for step in range(TOTAL):
        give_gradients(theirs, step)
        expected.append(reference.param_groups[0]["d"] * reference.param_groups[0]["lr"])
        reference.step()
    assert equal(ours, theirs)
    assert [row["model/default"] for row in rows] == expected
    assert expected[0] == 1e-6  # the authors' first guess
    assert expected[-1] > 100 * expected[0]  # and it found more


def test_prodigy_under_a_schedule_multiplies_what_it_finds() -> None:
    schedule = Cosine(warmup_steps=10, end_factor=0.1)
    ours, theirs = net(), net()
    reference = by_hand(theirs)
    rows = train(ours, optimizers_for(ours, kind="prodigy", schedule=schedule), range(TOTAL))
    plan = optimizers_for(net(), kind="sgd", lr=1.0, schedule=schedule)
    for step, row in enumerate(rows):
        give_gradients(theirs, step)
        for group in reference.param_groups:
            group["lr"] = plan.set_lr(step)["model/default"]
        assert row["model/default"] == reference.param_groups[0]["d"] * reference.param_groups[0]["lr"]
        reference.step()
    assert equal(ours, theirs)


def test_each_named_group_of_prodigy_finds_its_own_lr_times_its_factor() -> None:
    rule = GroupRule(**TEXT, lr_scale=0.2)
    whole, alone = net(), net()
    rows = train(whole, optimizers_for(whole, kind="prodigy", groups=[rule], d_coef=2.0), range(TOTAL))
    first = by_hand(alone[0], d_coef=0.4)
    second = by_hand(alone[2], d_coef=2.0)
    for step, row in enumerate(rows):
        give_gradients(alone, step)
        assert row == {"model/text": first.param_groups[0]["d"], "model/default": second.param_groups[0]["d"]}
        first.step()
        second.step()
    assert equal(whole, alone)
    assert rows[-1]["model/text"] < rows[-1]["model/default"]


def test_prodigy_goes_on_bit_for_bit_and_from_a_snapshot_again() -> None:
    pytest.importorskip("prodigyopt")
    rules = [GroupRule(**TEXT, lr_scale=0.5)]
    schedule = Cosine(warmup_steps=5)
    whole, cut = net(), net()
    reference = optimizers_for(whole, kind="prodigy", groups=rules, schedule=schedule, max_grad_norm=0.5)
    train(whole, reference, range(20))
    weights, held = detach_copy(whole.state_dict()), detach_copy(reference.state_dict())
    rows = train(whole, reference, range(20, 40))

    cut.load_state_dict(weights)
    again = optimizers_for(cut, kind="prodigy", groups=rules, schedule=schedule, max_grad_norm=0.5)
    again.load_state_dict(held)
    assert train(cut, again, range(20, 40)) == rows
    assert equal(whole, cut)

    cut.load_state_dict(weights)  # a rollback: the same optimizers go back
    again.load_state_dict(held)
    assert train(cut, again, range(20, 40)) == rows
    assert equal(whole, cut)


def test_a_group_without_gradients_in_one_half_goes_on_at_the_lr_that_was_found() -> None:
    """The package reads the LR of its first torch group, which may hold no state: all must be restored."""
    pytest.importorskip("prodigyopt")

    def steps(module: nn.Module, optimizers: Optimizers, numbers: range) -> dict[str, float]:
        for step in numbers:
            optimizers.set_lr(step)
            give_gradients(module, step)
            for parameter in module.parameters():
                if parameter.ndim == 2:  # the first half: matrices
                    parameter.grad = None
            optimizers.step("model")
        return optimizers.logged_lrs()

    whole, cut = net(), net()
    reference = optimizers_for(whole, kind="prodigy")
    steps(whole, reference, range(15))
    cut.load_state_dict(whole.state_dict())
    again = optimizers_for(cut, kind="prodigy")
    again.load_state_dict(detach_copy(reference.state_dict()))
    assert steps(cut, again, range(15, 25)) == steps(whole, reference, range(15, 25))
    assert equal(whole, cut)


def test_prodigy_leaves_a_group_alone_while_it_is_frozen() -> None:
    pytest.importorskip("prodigyopt")
    module = net()
    optimizers = optimizers_for(module, kind="prodigy", groups=[GroupRule(**TEXT, frozen=(0, 5))])
    start = module[0].weight.detach().clone()
    rows = train(module, optimizers, range(5))
    assert torch.equal(module[0].weight, start)
    assert all(row["model/text"] == 0.0 < row["model/default"] for row in rows)
    rows = train(module, optimizers, range(5, 8))
    assert not torch.equal(module[0].weight, start)
    assert rows[0]["model/text"] == 1e-6


def test_an_lr_that_prodigy_would_not_use_is_refused_by_name() -> None:
    with pytest.raises(RecipeError, match="group `text` sets `lr`") as caught:
        optimizers_for(net(), kind="prodigy", groups=[GroupRule(**TEXT, lr=1e-4)])
    assert "lr_scale" in (caught.value.hint or "")
    with pytest.raises(RecipeError, match=r"`optim.optimizers.model.lr` is not used by `prodigy`"):
        optimizers_for(net(), kind="prodigy", optimizers={"model": OptimizerOverride(lr=1e-4)})


# ---------------------------------------------------------------- schedule-free


def test_the_plans_warmup_is_the_warmup_of_the_schedule_free_authors() -> None:
    """Theirs rises by (k + 1) / n in update k; so does ours from 1 / n over n - 1 steps. The average weighs by it."""
    package = pytest.importorskip("schedulefree")
    n = 8
    ours, theirs = net(), net()
    reference = package.AdamWScheduleFree(theirs.parameters(), lr=1e-2, weight_decay=0.0, warmup_steps=n)
    reference.train()
    optimizers = optimizers_for(
        ours,
        kind="schedule_free_adamw",
        weight_decay=0.0,
        schedule=Constant(warmup_steps=n - 1, warmup_start=1 / n),
    )
    rows = train(ours, optimizers, range(20))
    for step, row in enumerate(rows):
        give_gradients(theirs, step)
        reference.step()
        assert row["model/default"] == pytest.approx(reference.param_groups[0]["scheduled_lr"], rel=1e-12)
    reference.eval()
    with optimizers.evaluating():
        for mine, their in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine, their, rtol=1e-5, atol=1e-6)


def test_named_groups_of_a_schedule_free_optimizer_have_their_own_lr() -> None:
    package = pytest.importorskip("schedulefree")
    ours, theirs = net(), net()
    optimizers = optimizers_for(
        ours, kind="schedule_free_adamw", weight_decay=0.0, groups=[GroupRule(**TEXT, lr_scale=0.1)]
    )
    reference = package.AdamWScheduleFree(
        [{"params": theirs[0].parameters(), "lr": 1e-3}, {"params": theirs[2].parameters()}], lr=1e-2
    )
    reference.train()
    rows = train(ours, optimizers, range(6))
    for step in range(6):
        give_gradients(theirs, step)
        reference.step()
    assert equal(ours, theirs)
    assert rows[-1] == pytest.approx({"model/text": 1e-3, "model/default": 1e-2})
