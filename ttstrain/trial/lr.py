"""A range test of the learning rate of each parameter group, from one and the same state.

L. N. Smith, Cyclical Learning Rates for Training Neural Networks (arXiv:1506.01186), section 3.3: the LR rises
exponentially, and the loss tells where it stops helping. Here one group learns and the others stand still, and the
losses are compared with those of the same batches and random numbers when no group learns: what is left is what the
group's updates did. Then all groups train together at the LRs that were chosen, for as many steps; while that makes the
loss worse, all are halved. The state - weights, optimizers, EMA, random numbers, data position - is put back after each
test.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from ttstrain.optim.settings import FINDS_LR, settings_of
from ttstrain.optim.stages import Curriculum, ParameterGroup
from ttstrain.plan.refuse import highest_lr
from ttstrain.train.guard import Guard, UpdateVerdict
from ttstrain.train.run import Run
from ttstrain.trial.lr_choice import Choice, choose, first_worse, rounded
from ttstrain.trial.scratch import take_whole_step

STEPS = 40
BELOW, ABOVE = 100.0, 100.0  # from a hundredth of the recipe's LR to a hundred times it
AFTER_WORSE = 2  # steps that are still taken, for the picture
RAMP = 0.25  # share of the steps together in which the LRs rise, as a run's warmup does
MOST_HALVINGS = 4
NEAR = 1.5  # a proposal within this factor of the recipe's LR confirms it: the test is no finer

Key = tuple[str, str]  # optimizer, and name of the rule in `optim.groups` or `default`
Losses = Mapping[str, float]  # optimizer -> loss
Told = Callable[[int, int], None]  # steps that are done, and of how many


@dataclass(frozen=True, slots=True)
class Curve:
    """What one group's test showed."""

    optimizer: str
    rule: str  # name of the rule in `optim.groups`, or `default`
    planned: float  # the recipe's peak LR
    choice: Choice
    lrs: Sequence[float] = ()  # none where the group was not tested
    gains: Sequence[float] = ()  # how far the loss fell below the one without updates, as a share of it

    @property
    def key(self) -> str:
        return f"{self.optimizer}/{self.rule}"

    @property
    def found(self) -> float | None:
        """The LR to set; None where the recipe's stays, because none is proposed or one that is near."""
        lr = self.choice.lr
        return None if lr is None or 1 / NEAR < lr / self.planned < NEAR else lr


@dataclass(frozen=True, slots=True)
class Together:
    """Steps of all groups at the chosen LRs."""

    steps: int
    gain: float  # over the second half of the steps, as a share of the loss without updates; NaN where it is not finite
    halvings: int  # that the LRs needed before the loss did not get worse

    @property
    def held(self) -> bool:
        return self.gain > 0


@dataclass(frozen=True, slots=True)
class FoundLrs:
    """What all tests showed."""

    curves: Sequence[Curve]
    together: Together | None  # None where no LR is proposed


def find_lrs(run: Run, *, steps: int = STEPS, told: Told | None = None) -> FoundLrs:
    """Test every group that trains, and leave the run's state as it was, bit for bit.

    Groups of an optimizer that finds its own LR are left out. Raises OutOfMemoryError where a step does not fit.
    """
    planned = _trained(run)
    helpers = {name for name in run.optimizers.names if not _is_exported(run, name)}
    tested = {key: lr for key, lr in planned.items() if key[0] not in helpers}
    rounds = 2 + len(tested)  # one without updates, one together

    def count(number: int) -> Callable[[int], None]:
        return lambda done: None if told is None else told(number * steps + done, rounds * steps)

    still = _take(run, [{}] * steps, count(0)) if planned else []
    curves: list[Curve] = []
    moved_by: dict[Key, Sequence[Losses]] = {}
    for number, (key, lr) in enumerate(tested.items(), start=1):
        lrs = [lr / BELOW * (BELOW * ABOVE) ** (i / (steps - 1)) for i in range(steps)]
        moved = _take(run, [{key: one / lr} for one in lrs], count(number), enough=_is_enough(key[0], still))
        gains = _gains(key[0], still, moved)
        choice = choose(lrs, gains, highest=highest_lr(run.plan.recipe, key[0]))
        curves.append(Curve(*key, lr, choice, tuple(lrs[: len(gains)]), tuple(gains)))
        moved_by[key] = moved
    for key, lr in planned.items():
        if key[0] in helpers:
            curves.append(Curve(*key, lr, _following(key[0], lr, curves, still, moved_by)))
    return _hold(run, curves, still, count(rounds - 1))


def _trained(run: Run) -> dict[Key, float]:
    """Map each group that the first stage trains, and whose LR is the recipe's, to its highest peak LR."""
    found: dict[Key, float] = {}
    stage, optim = run.optimizers.curriculum.current.stage, run.plan.recipe.optim
    for group in run.optimizers.table.groups:
        if stage.trains(group) and group.lr > 0 and settings_of(optim, group.optimizer).kind not in FINDS_LR:
            own = (group.optimizer, group.rule)
            found[own] = max(found.get(own, 0.0), group.lr)
    return found


def _is_exported(run: Run, optimizer: str) -> bool:
    """Tell whether an optimizer trains what is exported; a discriminator, for one, is not."""
    exported = {id(parameter) for parameter in run.task.exported().parameters()}
    groups = [group for group in run.optimizers.table.groups if group.optimizer == optimizer]
    return any(id(parameter) in exported for group in groups for parameter in group.parameters)


def _following(
    optimizer: str,
    planned: float,
    curves: Sequence[Curve],
    still: Sequence[Losses],
    moved: Mapping[Key, Sequence[Losses]],
) -> Choice:
    """Let an optimizer's group follow the first one whose updates change this optimizer's loss."""
    for curve in curves:
        losses = moved.get((curve.optimizer, curve.rule), ())
        if any(after.get(optimizer) != before[optimizer] for before, after in zip(still, losses, strict=False)):
            lr = curve.choice.lr
            return Choice("follows", None if lr is None else rounded(planned * lr / curve.planned), leader=curve.key)
    return Choice("flat")


def _gains(optimizer: str, still: Sequence[Losses], moved: Sequence[Losses]) -> list[float]:
    return [
        _gain(before[optimizer], after.get(optimizer, math.nan)) for before, after in zip(still, moved, strict=False)
    ]  # a test may end early


def _gain(before: float, after: float) -> float:
    return (before - after) / abs(before) if before else 0.0


def _is_enough(optimizer: str, still: Sequence[Losses]) -> Callable[[Sequence[Losses]], bool]:
    """Return a function that tells when a test may end early: the loss has become clearly worse."""

    def enough(moved: Sequence[Losses]) -> bool:
        worse = first_worse(_gains(optimizer, still, moved))
        return worse is not None and len(moved) > worse + AFTER_WORSE

    return enough


# ---------------------------------------------------------------- all groups together


def _hold(run: Run, curves: Sequence[Curve], still: Sequence[Losses], count: Callable[[int], None]) -> FoundLrs:
    """Train all groups at the chosen LRs, others at the recipe's; halve them all until the loss does not get worse."""
    if all(curve.choice.lr is None for curve in curves):
        return FoundLrs(curves, None)
    for halvings in range(MOST_HALVINGS + 1):
        factors = {(curve.optimizer, curve.rule): (curve.found or curve.planned) / curve.planned for curve in curves}
        ramp = max(round(RAMP * len(still)), 1)
        moved = _take(
            run,
            [{key: factor * min((i + 1) / ramp, 1.0) for key, factor in factors.items()} for i in range(len(still))],
            count,
        )
        together = Together(len(still), _late_gain(still, moved), halvings)
        if together.held:
            return FoundLrs(curves, together)
        if halvings < MOST_HALVINGS:
            curves = [replace(curve, choice=curve.choice.halved()) for curve in curves]
    return FoundLrs([replace(curve, choice=replace(curve.choice, lr=None)) for curve in curves], together)


def _late_gain(still: Sequence[Losses], moved: Sequence[Losses]) -> float:
    """Return how far the sum of the losses fell over the second half of the steps; NaN where the test broke off."""
    half = slice(len(still) // 2, None)
    before, after = ([math.fsum(losses.values()) for losses in every[half]] for every in (still, moved))
    if len(after) < len(before) or not all(map(math.isfinite, after)):
        return math.nan
    return _gain(math.fsum(before), math.fsum(after))


# ---------------------------------------------------------------- steps, and the state behind them


def _take(
    run: Run,
    factors: Sequence[Mapping[Key, float]],
    count: Callable[[int], None],
    *,
    enough: Callable[[Sequence[Losses]], bool] = lambda _losses: False,
) -> list[Losses]:
    """Take a step for each mapping of groups to factors of their recipe's LRs; the other groups stand still.

    Return the losses of each step, before its update. Ends early once they are `enough`, or one is not finite.
    """
    losses: list[Losses] = []
    with _put_back(run):
        listener, set_lrs = _Listener(run), _SetLrs(run.optimizers.curriculum)
        run.progress.step = _first_of_all(run)
        run.optimizers.curriculum, run.guard = set_lrs, listener
        for done, own in enumerate(factors, start=1):
            set_lrs.factors = own
            take_whole_step(run, run.loader.next(run.plan.accumulate))
            losses.append(dict(listener.taken))
            listener.taken.clear()
            count(done)
            if not all(map(math.isfinite, losses[-1].values())) or enough(losses):
                break
    return losses


def _first_of_all(run: Run) -> int:
    """Return the first step in which everything trains: frozen groups have begun, and old embeddings too."""
    begins = [group.frozen_range[1] for group in run.optimizers.table.groups if group.frozen_range is not None]
    new = run.optimizers.new_embeddings
    return max([run.progress.step, *begins, 0 if new is None else new.steps])


@contextmanager
def _put_back(run: Run) -> Iterator[None]:
    """Put the run's whole state back at the end of the block, with its guard and its learning rates."""
    held, guard, curriculum = run.state.snapshot(), run.guard, run.optimizers.curriculum
    try:
        yield
    finally:
        run.guard, run.optimizers.curriculum = guard, curriculum
        run.state.load_state_dict(held)
        for name in run.optimizers.names:
            run.optimizers.zero_grad(name)
        run.optimizers.set_lr(run.progress.step, factor=run.guard.lr_factor, factors=run.guard.lr_factors)


class _SetLrs(Curriculum):
    """The run's stages, in which some groups have LRs that are set and the others have none."""

    def __init__(self, whole: Curriculum) -> None:
        super().__init__(whole.stages, ended=[step for _, step in whole.ended])
        self.factors: Mapping[Key, float] = {}  # of the recipe's LRs

    def lr_of(self, group: ParameterGroup, step: int) -> float:
        return self.factors.get((group.optimizer, group.rule), 0.0) * group.lr


class _Listener(Guard):
    """Takes every update that is finite, and notes the losses."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.plan.recipe.guard)
        self.taken: dict[str, float] = {}

    def judge(self, optimizer: str, *, loss: float, grad_norm: float, overflow_is_scale: bool) -> UpdateVerdict:
        self.taken[optimizer] = loss
        finite = math.isfinite(loss) and math.isfinite(grad_norm)
        return UpdateVerdict("good" if finite else "non_finite_loss", loss, grad_norm)
