"""Learning rates as pure functions of the step. Imports no torch.

`step` counts the updates already done: the first update uses step 0, the last one step `total_steps - 1`.

The first `warmup_length` updates rise linearly from `warmup_start` x LR; the update at step `warmup_length` is the
first at the full LR. The schedule's body spans the rest and ends on the last update, which uses `end_factor` x LR
exactly. Beyond the end the LR stays that of the last update. `f5_linear` alone follows upstream's conventions instead.
"""

from __future__ import annotations

import math

from ttstrain.errors import RecipeError
from ttstrain.recipe.schema import (
    ChainedLinear,
    Constant,
    Cosine,
    CosineRestarts,
    Exponential,
    Linear,
    Schedule,
    WarmupStableDecay,
)

AUTO_WARMUP_SHARE = 0.05
AUTO_WARMUP_LONG_RUN = 5000  # runs of at least so many steps
AUTO_WARMUP_MINIMUM = 500  # warm up for at least so many
CHAINED_END_FACTOR = 1e-8  # end_factor of upstream's decay, also what its warmup starts from


def lr_at(schedule: Schedule, *, step: int, base_lr: float, total_steps: int, steps_per_epoch: float) -> float:
    """Return the LR of the update that follows `step` finished ones.

    `steps_per_epoch` matters to `exponential` only. Raises RecipeError when the schedule does not fit the run.
    """
    warmup = warmup_length(schedule, total_steps)
    _check_fit(schedule, warmup=warmup, total=total_steps, base_lr=base_lr)
    if isinstance(schedule, ChainedLinear):
        return base_lr * _chained_linear(step, warmup=warmup, total=total_steps, start=schedule.warmup_start)
    if step < warmup:
        return base_lr * (schedule.warmup_start + (1 - schedule.warmup_start) * step / warmup)
    step = max(warmup, min(step, total_steps - 1))
    done = _share_done(step - warmup, total_steps - warmup)
    match schedule:
        case Constant():
            factor = 1.0
        case Linear(end_factor=end):
            factor = end + (1 - end) * (1 - done)
        case Cosine(end_factor=end):
            factor = end + (1 - end) * _half_cosine(done)
        case CosineRestarts():
            return _cosine_restarts(schedule, step - warmup, base_lr)
        case WarmupStableDecay():
            factor = _stable_decay(schedule, step, total=total_steps)
        case Exponential(gamma=gamma):
            factor = gamma ** (_epoch(step, steps_per_epoch) - _epoch(warmup, steps_per_epoch))
    return base_lr * factor


def warmup_length(schedule: Schedule, total_steps: int) -> int:
    """Return how many updates come before the first one at the full LR.

    `auto` is 5 % of the run, at least 1 step and at least 500 when the run has 5000 steps or more. A share and `auto`
    always leave a step at the full LR; a number of steps is taken as it is.
    """
    if schedule.warmup_steps == "auto":
        least = AUTO_WARMUP_MINIMUM if total_steps >= AUTO_WARMUP_LONG_RUN else 1
        return min(max(math.floor(AUTO_WARMUP_SHARE * total_steps + 0.5), least), max(total_steps - 1, 0))
    return _steps(schedule.warmup_steps, total_steps)


def curve(
    schedule: Schedule, *, base_lr: float, total_steps: int, steps_per_epoch: float, points: int | None = None
) -> list[float]:
    """Return the LR of every update of the run, or of `points` updates spread evenly from the first to the last."""
    steps = list(range(total_steps))
    if points is not None and points < total_steps:
        steps = [round(i * (total_steps - 1) / max(points - 1, 1)) for i in range(points)]
    return [
        lr_at(schedule, step=step, base_lr=base_lr, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
        for step in steps
    ]


def _check_fit(schedule: Schedule, *, warmup: int, total: int, base_lr: float) -> None:
    """Refuse schedules that cannot be intended."""
    if isinstance(schedule, CosineRestarts) and schedule.eta_min > base_lr:
        raise RecipeError(
            f"`eta_min` {schedule.eta_min:g} of schedule `cosine_restarts` is above the group's peak LR {base_lr:g}",
            hint="lower `eta_min`, or give the group a schedule of its own",
        )
    if isinstance(schedule, WarmupStableDecay):
        decay = _steps(schedule.decay_steps, total)
        if decay and warmup + decay > total:
            raise RecipeError(
                f"schedule `wsd` needs {warmup} steps of warmup and {decay} of decay, but the run has {total}",
                hint="lower `warmup_steps` or `decay_steps`, or train longer",
            )


def _steps(steps_or_share: float, total_steps: int) -> int:
    """A whole number is steps, a fraction a share of the run, rounded down."""
    if isinstance(steps_or_share, int):
        return steps_or_share
    return math.floor(steps_or_share * total_steps + 1e-9)  # 0.29 * 100 is 28.999999999999996


def _share_done(position: int, length: int) -> float:
    """0 at the first of `length` updates, 1 at the last; a body of one update is all peak, one of none all end."""
    if length <= 1:
        return 0.0 if length == 1 else 1.0
    return position / (length - 1)


def _half_cosine(done: float) -> float:
    return (1 + math.cos(math.pi * done)) / 2


def _cosine_restarts(schedule: CosineRestarts, position: int, base_lr: float) -> float:
    """SGDR (arXiv 1608.03983) with the argument names of torch's CosineAnnealingWarmRestarts."""
    length = schedule.t_0
    if schedule.t_mult == 1:
        position %= length
    while position >= length:
        position -= length
        length *= schedule.t_mult
    return schedule.eta_min + (base_lr - schedule.eta_min) * _half_cosine(position / length)


def _stable_decay(schedule: WarmupStableDecay, step: int, *, total: int) -> float:
    decay_steps = _steps(schedule.decay_steps, total)
    into_decay = step - (total - decay_steps) + 1  # the first decaying update is already below the peak
    if into_decay <= 0:
        return 1.0
    done = min(into_decay / decay_steps, 1.0)
    shapes = {"linear": 1 - done, "cosine": _half_cosine(done), "sqrt": 1 - math.sqrt(done)}
    return schedule.end_factor + (1 - schedule.end_factor) * shapes[schedule.decay]


def _epoch(step: int, steps_per_epoch: float) -> int:
    return math.floor(step / steps_per_epoch + 1e-9)  # 37 steps of 37/3 to the epoch are three whole epochs


def _chained_linear(step: int, *, warmup: int, total: int, start: float) -> float:
    """Two chained LinearLR as upstream F5-TTS builds them: up over `warmup` steps, down to 1e-8 at step `total`.

    Without warmup upstream never leaves the start factor: its second scheduler multiplies what the first one left, one
    step late. Reproduced, so that such a run can be recognised; the plan refuses to train it.
    """
    if warmup == 0:
        return start * (1 - (1 - CHAINED_END_FACTOR) * min(max(step - 1, 0) / total, 1.0))
    if step < warmup:
        return start + (1 - start) * step / warmup
    done = min((step - warmup) / (total - warmup), 1.0) if total > warmup else 1.0
    return 1 - (1 - CHAINED_END_FACTOR) * done
