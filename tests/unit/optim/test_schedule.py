"""Schedules against torch's own schedulers and against values worked out by hand."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch

from ttstrain.errors import RecipeError
from ttstrain.optim.schedule import curve, lr_at, warmup_length
from ttstrain.recipe.schema import (
    ChainedLinear,
    Constant,
    Cosine,
    CosineRestarts,
    Exponential,
    Linear,
    OptimConfig,
    WarmupStableDecay,
)

PEAK = 2e-4
BODIES: list[Any] = [
    Constant(warmup_steps=10),
    Linear(warmup_steps=10, end_factor=0.05),
    Cosine(warmup_steps=10, end_factor=0.05),
    CosineRestarts(warmup_steps=10, t_0=7, t_mult=2, eta_min=1e-6),
    WarmupStableDecay(warmup_steps=10, decay_steps=30, end_factor=0.05),
    Exponential(warmup_steps=10, gamma=0.9),
]


def lr(schedule: Any, step: int, *, total: int = 100, base: float = PEAK, per_epoch: float = 10.0) -> float:
    return lr_at(schedule, step=step, base_lr=base, total_steps=total, steps_per_epoch=per_epoch)


def torch_curve(make: Any, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = make(optimizer)
    values = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch misses the optimizer's own steps
        for _ in range(steps):
            values.append(optimizer.param_groups[0]["lr"])
            scheduler.step()
    return values


@pytest.mark.parametrize("schedule", BODIES, ids=lambda schedule: schedule.kind)
def test_warmup_rises_linearly_to_the_peak_at_its_own_length(schedule: Any) -> None:
    assert lr(schedule, 0) == pytest.approx(0.1 * PEAK, rel=1e-15)
    assert lr(schedule, 5) == pytest.approx(0.55 * PEAK, rel=1e-15)
    assert lr(schedule, 10) == PEAK
    rises = [lr(schedule, step + 1) - lr(schedule, step) for step in range(10)]
    assert rises == pytest.approx([0.09 * PEAK] * 10, rel=1e-12)


@pytest.mark.parametrize("schedule", [schedule for schedule in BODIES if hasattr(schedule, "end_factor")])
def test_the_last_update_uses_the_end_factor_and_so_does_all_that_follows(schedule: Any) -> None:
    assert lr(schedule, 98) > lr(schedule, 99)
    for step in (99, 100, 101, 10_000):
        assert lr(schedule, step) == pytest.approx(0.05 * PEAK, rel=1e-14)


@pytest.mark.parametrize("schedule", BODIES, ids=lambda schedule: schedule.kind)
def test_beyond_the_end_the_lr_stays_that_of_the_last_update(schedule: Any) -> None:
    assert {lr(schedule, step) for step in range(99, 140)} == {lr(schedule, 99)}


@pytest.mark.parametrize("schedule", BODIES, ids=lambda schedule: schedule.kind)
@pytest.mark.parametrize("total", [1, 2, 3, 500, 4999, 5000, 80_000])
def test_with_defaults_no_update_is_below_a_thousandth_of_the_peak(schedule: Any, total: int) -> None:
    own_defaults = type(schedule)()
    lrs = curve(own_defaults, base_lr=PEAK, total_steps=total, steps_per_epoch=10, points=400)
    assert min(lrs) >= 1e-3 * PEAK


def test_the_default_schedule_never_trains_at_the_floor() -> None:
    default = OptimConfig().schedule
    assert isinstance(default, Cosine)
    for total in (1, 2, 7, 100, 5000, 100_000):
        steps = [*range(min(total, 3000)), total - 1, total, 2 * total, 10**9]
        factors = [lr(default, step, total=total, base=1.0) for step in steps]
        assert min(factors) >= 0.1 - 1e-15
        assert max(factors) == 1.0 or total > 3000


def test_upstreams_schedule_does_end_at_the_floor_ours_avoids() -> None:
    upstream = ChainedLinear(warmup_steps=10)
    assert lr(upstream, 100, base=1e-4) == pytest.approx(1e-12, rel=1e-6)


def test_linear_falls_by_equal_amounts() -> None:
    schedule = Linear(warmup_steps=4, end_factor=0.0)
    assert [lr(schedule, step, total=9, base=1.0) for step in range(4, 9)] == pytest.approx([1, 0.75, 0.5, 0.25, 0])


def test_cosine_is_torchs_cosine_after_warmup() -> None:
    schedule = Cosine(warmup_steps=10, end_factor=0.1)
    theirs = torch_curve(
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=89, eta_min=0.1 * PEAK), 90
    )
    assert [lr(schedule, 10 + step) for step in range(90)] == pytest.approx(theirs, rel=1e-11)


@pytest.mark.parametrize(("t_0", "t_mult"), [(1, 1), (7, 1), (7, 2), (5, 3), (200, 2)])
def test_restarts_are_torchs_after_warmup(t_0: int, t_mult: int) -> None:
    schedule = CosineRestarts(warmup_steps=10, t_0=t_0, t_mult=t_mult, eta_min=1e-6)
    theirs = torch_curve(
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(
            optimizer, T_0=t_0, T_mult=t_mult, eta_min=1e-6
        ),
        90,
    )
    assert [lr(schedule, 10 + step) for step in range(90)] == pytest.approx(theirs, rel=1e-12)


def test_restarts_that_would_rise_above_the_peak_are_refused() -> None:
    with pytest.raises(RecipeError, match="eta_min"):
        lr(CosineRestarts(warmup_steps=0, eta_min=1e-3), 5)


def test_exponential_per_epoch_is_torchs_stepped_once_per_epoch() -> None:
    schedule = Exponential(warmup_steps=0, gamma=0.9)
    theirs = torch_curve(lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9), 9)
    for per_epoch in (11, 37 / 3):
        ours = [lr(schedule, math.ceil(epoch * per_epoch), per_epoch=per_epoch, total=200) for epoch in range(9)]
        assert ours == pytest.approx(theirs, rel=1e-14)
        before = [
            lr(schedule, math.ceil(epoch * per_epoch) - 1, per_epoch=per_epoch, total=200) for epoch in range(1, 9)
        ]
        assert before == pytest.approx(theirs[:-1], rel=1e-14)


def test_exponential_counts_whole_epochs_since_warmup_ended() -> None:
    schedule = Exponential(warmup_steps=15, gamma=0.5)
    assert lr(schedule, 15) == lr(schedule, 19) == PEAK
    assert lr(schedule, 20) == lr(schedule, 29) == PEAK / 2
    assert lr(schedule, 30) == PEAK / 4


@pytest.mark.parametrize(
    ("decay", "half_way"),
    [("linear", 0.5), ("cosine", 0.5), ("sqrt", 1 - math.sqrt(0.5))],
    ids=str,
)
def test_stable_phase_is_flat_and_its_decay_has_the_named_shape(decay: Any, half_way: float) -> None:
    schedule = WarmupStableDecay(warmup_steps=10, decay_steps=20, decay=decay, end_factor=0.0)
    factors = [lr(schedule, step, base=1.0) for step in range(100)]
    assert set(factors[10:80]) == {1.0}
    assert 1.0 > factors[80] > factors[81]
    assert factors[89] == pytest.approx(half_way, rel=1e-12)
    assert factors[99] == pytest.approx(0.0, abs=1e-15)


def test_a_decay_given_as_a_share_is_one_of_the_run() -> None:
    share = WarmupStableDecay(warmup_steps=0, decay_steps=0.25)
    steps = WarmupStableDecay(warmup_steps=0, decay_steps=25)
    assert [lr(share, step) for step in range(100)] == [lr(steps, step) for step in range(100)]


def test_warmup_and_decay_that_overlap_are_refused() -> None:
    with pytest.raises(RecipeError, match="60 steps of warmup and 50 of decay"):
        lr(WarmupStableDecay(warmup_steps=60, decay_steps=50), 5)


@pytest.mark.parametrize(
    ("total", "length"),
    [(1, 0), (2, 1), (10, 1), (100, 5), (4999, 250), (5000, 500), (10_000, 500), (20_000, 1000)],
)
def test_auto_warmup_is_five_percent_and_500_steps_of_a_long_run(total: int, length: int) -> None:
    assert warmup_length(Cosine(), total) == length


def test_a_share_of_warmup_is_exact_and_leaves_a_step_at_the_peak() -> None:
    assert warmup_length(Cosine(warmup_steps=0.29), 100) == 29  # though 0.29 * 100 < 29
    for total in range(1, 50):
        assert warmup_length(Cosine(warmup_steps=0.99), total) < total


def test_warmup_longer_than_the_run_keeps_rising() -> None:
    assert lr(Cosine(warmup_steps=200, warmup_start=0.0), 99) == pytest.approx(PEAK * 99 / 200)


def test_a_run_of_one_step_is_all_peak() -> None:
    for schedule in (Linear(), Cosine(), Constant(), WarmupStableDecay(), Exponential()):
        assert lr(schedule, 0, total=1) == PEAK


def test_curve_is_the_lr_of_every_update_or_of_some_with_both_ends() -> None:
    schedule = Cosine(warmup_steps=10)
    whole = curve(schedule, base_lr=PEAK, total_steps=100, steps_per_epoch=10)
    assert whole == [lr(schedule, step) for step in range(100)]
    some = curve(schedule, base_lr=PEAK, total_steps=100, steps_per_epoch=10, points=12)
    assert (len(some), some[0], some[-1], some[1]) == (12, whole[0], whole[-1], whole[9])
    assert curve(schedule, base_lr=PEAK, total_steps=100, steps_per_epoch=10, points=500) == whole


def test_schedules_are_computed_without_torch() -> None:
    code = "import sys, ttstrain.optim.schedule, ttstrain.optim.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
