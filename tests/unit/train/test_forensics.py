"""What a refused batch is looked at for: the four causes, the module, the clips, and that nothing of it is left."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_runs import differences
from torch import Tensor, nn
from toys import Gan, Regression, ToyBatch, make_batch, make_run, split

from ttstrain.contract.task import Loss
from ttstrain.recipe.schema import GuardConfig, OptimConfig
from ttstrain.train.forensics import Attempt, Refused, examine, groups_of
from ttstrain.train.guard import Guard, UpdateVerdict
from ttstrain.train.step import train_step


class Loader:
    """Divides toy batches into rows."""

    def divided(self, batch: ToyBatch, *, limit: int) -> list[ToyBatch]:
        assert limit == 1
        return split(batch, *[1] * len(batch.ids))


def run_of(task: Any, **settings: Any) -> Any:
    torch.manual_seed(0)
    run = make_run(task, **settings)
    run.loader = Loader()
    return run


def refuse(run: Any, *batches: ToyBatch) -> Refused:
    """Take a step that the guard refuses, and describe it."""
    generators = run.rng.state_dict()
    report = train_step(run, batches)
    ((optimizer, verdict),) = report.refused.items()
    return Refused(optimizer, verdict, Attempt(batches, generators))


class Once(Regression):
    """Gives NaN the first time, as a card with a failing memory does."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 0

    def losses(self, batch: ToyBatch) -> Iterator[Loss]:
        self.times += 1
        for loss in super().losses(batch):
            yield Loss(loss.value * math.nan if self.times == 1 else loss.value)


class Narrow(nn.Module):
    """Is not finite in bf16 alone."""

    def forward(self, x: Tensor) -> Tensor:
        low = torch.is_autocast_enabled("cpu")
        return x * math.inf if low else x


class Numeric(Regression):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), Narrow(), nn.Linear(8, 3))


class Root(nn.Module):
    """Has an infinite gradient at zero."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x).abs().sqrt()


class SteepGradient(Regression):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), Root(), nn.Linear(8, 3))


def test_what_does_not_come_again_is_called_not_repeatable() -> None:
    run = run_of(Once())
    found = examine(run, refuse(run, make_batch(4)))
    assert (found.cause, found.module, found.clips) == ("not repeatable", None, ())


def test_what_fails_in_bf16_alone_is_numeric_and_its_module_is_named() -> None:
    run = run_of(Numeric(), precision="bf16")
    found = examine(run, refuse(run, make_batch(4)))
    assert (found.cause, found.module, found.groups) == ("numeric", "net.1", ("model/default",))


def test_a_bad_clip_is_named_and_so_is_the_first_module_that_it_spoils() -> None:
    run = run_of(Regression())
    batch = make_batch(4, poison=math.nan)
    found = examine(run, refuse(run, make_batch(4, seed=5), batch))
    assert (found.cause, found.module, found.clips) == ("data", "net.0", (batch.ids[0],))
    assert f"of its 8 clips, each alone, {batch.ids[0]} fails" in found.why


def test_weights_with_which_every_clip_fails_are_to_blame() -> None:
    run = run_of(Regression())
    with torch.no_grad():
        run.task.net[2].weight[0] = math.inf
    found = examine(run, refuse(run, make_batch(4)))
    assert (found.cause, found.module, found.clips) == ("weights", "net.2", ())


def test_a_gradient_that_is_not_finite_is_followed_to_its_module() -> None:
    run = run_of(SteepGradient())
    refused = refuse(run, make_batch(4))
    assert refused.verdict.judgement == "non_finite_gradient"
    found = examine(run, refused)
    assert (found.cause, found.module) == ("weights", "net.1")  # what comes before the root gets the gradient


@pytest.mark.parametrize(("comes_again", "cause"), [(True, "data"), (False, "not repeatable")])
def test_a_spike_is_looked_for_by_its_height(comes_again: bool, cause: str) -> None:
    run, batch = run_of(Regression()), make_batch(4)
    for _ in range(8):
        run.guard.accept("model", 1.0)
    spiked = ToyBatch([*batch.ids], batch.x, batch.y + torch.tensor([[900.0], [0], [0], [0]]), 4.0, 4, 4)
    run.guard = Guard(GuardConfig(window=8))
    for _ in range(8):
        run.guard.accept("model", 1.0)
    refused = refuse(run, spiked)
    assert refused.verdict.judgement == "spike"
    if not comes_again:
        refused = Refused("model", refused.verdict, Attempt([batch], refused.attempt.generators))
    found = examine(run, refused)
    assert (found.cause, found.clips) == (cause, (batch.ids[0],) if comes_again else ())


class Count(nn.Module):
    """Counts its calls in a buffer, as a running statistic does."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return F.dropout(x, 0.5)


class Noisy(Gan):
    """Draws noise, counts, and never has a finite loss for the generator."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(Count(), *self.generator)

    def losses(self, batch: ToyBatch) -> Iterator[Loss]:
        for loss in super().losses(batch):
            yield replace(loss, value=loss.value * math.inf) if loss.updates == "generator" else loss


def test_nothing_is_left_of_an_examination() -> None:
    run = run_of(Noisy(), ema_decay=0.9)
    refused = refuse(run, make_batch(4))
    assert refused.optimizer == "generator"
    before, generators = run.state.snapshot(), torch.get_rng_state()
    assert examine(run, refused).cause == "weights"
    assert float(run.task.generator[0].calls) == 1
    assert differences(run.state.snapshot(), before) == []
    assert torch.equal(torch.get_rng_state(), generators)
    assert all(parameter.grad is None for parameter in run.task.parameters())
    assert not any(module._forward_hooks for module in run.task.modules())


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), ValueError("one row is too few")])
def test_an_error_on_the_way_is_told_and_ends_no_run(error: Exception) -> None:
    class Failing(Regression):
        fails = False

        def losses(self, batch: ToyBatch) -> Iterator[Loss]:
            if self.fails:
                raise error
            yield from super().losses(batch)

    run = run_of(Failing())
    refused = refuse(run, make_batch(4, poison=math.nan))
    run.task.fails = True
    found = examine(run, refused)
    assert (found.cause, str(error) in found.why) == ("unknown", True)


def test_a_module_without_parameters_belongs_to_the_groups_around_it() -> None:
    run = run_of(Regression(), optim=OptimConfig(lr=1e-2, groups=[{"name": "last", "match": ["net.3.*"]}]))
    assert groups_of(run, "net.3") == ("model/last",)
    assert groups_of(run, "net.1") == ("model/default", "model/last")  # a Tanh: those of `net`


# ---------------------------------------------------------------- the group at fault


def test_only_the_group_at_fault_gets_a_lower_lr_if_asked() -> None:
    settings = {"lr_factor": 0.5, "lr_factor_of": "group"}
    optim = OptimConfig(lr=1e-2, groups=[{"name": "last", "match": ["net.3.*"]}])
    run = run_of(Regression(), optim=optim, guard=GuardConfig.model_validate(settings))
    said = run.guard.note_rollback(groups=["model/last"])
    assert said == "LR multiplied, that of model/last by 0.5 from here on"
    lrs = train_step(run, [make_batch(4)]).lrs
    assert lrs["model/last"] == pytest.approx(0.5 * lrs["model/default"])
    again = Guard(GuardConfig.model_validate(settings))
    again.load_state_dict(run.guard.state_dict())
    assert (again.factor_of("model/last"), again.factor_of("model/default")) == (0.5, 1.0)
    run.guard.note_rollback()  # where no group is known, all of them
    assert (run.guard.factor_of("model/last"), run.guard.factor_of("model/default")) == (0.25, 0.5)


def test_only_so_many_batches_are_examined_in_a_run() -> None:
    guard = Guard(GuardConfig(examine=2))
    assert [guard.may_examine() for _ in range(3)] == [True, True, False]
    resumed = Guard(GuardConfig(examine=2))
    resumed.load_state_dict(guard.state_dict())
    assert not resumed.may_examine()


def test_a_verdict_is_judged_by_what_was_refused() -> None:
    def refused(judgement: Any, loss: float) -> Refused:
        return Refused("model", UpdateVerdict(judgement, loss, 1.0), SimpleNamespace())

    assert refused("spike", 100.0).fails(51.0, finite=True)
    assert not refused("spike", 100.0).fails(49.0, finite=True)
    assert refused("spike", 100.0).fails(math.nan, finite=True)
    assert refused("non_finite_gradient", 1.0).fails(1.0, finite=False)
    assert not refused("non_finite_loss", math.nan).fails(1.0, finite=True)
