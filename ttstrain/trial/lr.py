"""A range test of the learning rate of each parameter group, from one and the same state.

L. N. Smith, Cyclical Learning Rates for Training Neural Networks (arXiv:1506.01186), section 3.3: the LR rises
exponentially, and the loss tells where it stops helping. Here one group learns and the others stand still, and the
losses are compared with those of the same batches and random numbers when no group learns: what is left is what the
group's updates did. The state - weights, optimizers, EMA, random numbers, data position - is put back after each test.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ttstrain.optim.stages import Curriculum, ParameterGroup
from ttstrain.train.guard import Guard, UpdateVerdict
from ttstrain.train.run import Run
from ttstrain.trial.scratch import take_whole_step

STEPS = 40
BELOW, ABOVE = 100.0, 100.0  # from a hundredth of the recipe's LR to a hundred times it
SMOOTH = 0.7  # of the moving average over steps
BELOW_BEST = 10.0  # the LR of the lowest loss is on the edge: a tenth of it is taken, as fast.ai's `lr_find` does
WORSE = 4.0  # times the largest gain: the test ends where the loss has risen so far
CLEAR = 0.002  # share of the loss that it must fall by, to say anything


@dataclass(frozen=True, slots=True)
class Curve:
    """What one group's test showed."""

    optimizer: str
    rule: str  # name of the rule in `optim.groups`, or `default`
    planned: float  # the recipe's peak LR
    lrs: Sequence[float]
    gains: Sequence[float]  # smoothed: how far the loss fell below the one without updates, as a share of it
    found: float | None  # the LR that is proposed; None where the loss hardly fell

    @property
    def key(self) -> str:
        return f"{self.optimizer}/{self.rule}"


def find_lrs(run: Run, *, steps: int = STEPS) -> list[Curve]:
    """Test every group that trains, and leave the run's state as it was, bit for bit.

    Raises OutOfMemoryError where a step does not fit.
    """
    still = _losses(run, "", [0.0] * steps)
    curves = []
    for (optimizer, rule), planned in _trained(run).items():
        lrs = [planned / BELOW * (BELOW * ABOVE) ** (i / (steps - 1)) for i in range(steps)]
        moved = _losses(run, f"{optimizer}/{rule}", lrs, planned=planned, still=still)
        gains = smoothed(still, moved)
        curves.append(Curve(optimizer, rule, planned, tuple(lrs[: len(gains)]), tuple(gains), propose(lrs, gains)))
    return curves


def _trained(run: Run) -> dict[tuple[str, str], float]:
    """Map the optimizer and the rule of each group that the first stage trains to its highest peak LR."""
    found: dict[tuple[str, str], float] = {}
    stage = run.optimizers.curriculum.current.stage
    for group in run.optimizers.table.groups:
        if stage.trains(group) and group.lr > 0:
            own = (group.optimizer, group.rule)
            found[own] = max(found.get(own, 0.0), group.lr)
    return found


def _losses(
    run: Run, key: str, lrs: Sequence[float], *, planned: float = 1.0, still: Sequence[float] = ()
) -> list[float]:
    """Take a step at each LR of one group, with the others standing still; return the sum of the optimizers' losses.

    Without a key nothing learns. The test ends early where the loss has risen far above `still`, or is not finite.
    """
    losses: list[float] = []
    with _put_back(run):
        listener, one = _Listener(run), _OneGroup(run.optimizers.curriculum, key, planned)
        run.progress.step = _first_of_all(run)
        run.optimizers.curriculum, run.guard = one, listener
        best = 0.0
        for i, lr in enumerate(lrs):
            one.lr = lr
            losses.append(_loss_of_step(run, listener))
            if not math.isfinite(losses[-1]):
                break
            if still:
                gain = 1 - losses[-1] / still[i]
                best = max(best, gain)
                if i > len(lrs) // 4 and gain < -WORSE * max(best, CLEAR):
                    break
    return losses


def _loss_of_step(run: Run, listener: _Listener) -> float:
    take_whole_step(run, run.loader.next(run.plan.accumulate))
    loss = sum(listener.taken.values())
    listener.taken.clear()
    return loss


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
        run.optimizers.set_lr(run.progress.step, factor=run.guard.lr_factor)


class _OneGroup(Curriculum):
    """The run's stages, in which one group has an LR that is set and the others have none."""

    def __init__(self, whole: Curriculum, key: str, planned: float) -> None:
        super().__init__(whole.stages, ended=[step for _, step in whole.ended])
        self._key, self._planned = key, planned
        self.lr = 0.0  # of the group; a layer of it has its share

    def lr_of(self, group: ParameterGroup, step: int) -> float:
        if f"{group.optimizer}/{group.rule}" != self._key:
            return 0.0
        return self.lr * group.lr / self._planned


class _Listener(Guard):
    """Takes every update that is finite, and notes the losses."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.plan.recipe.guard)
        self.taken: dict[str, float] = {}

    def judge(self, optimizer: str, *, loss: float, grad_norm: float, overflow_is_scale: bool) -> UpdateVerdict:
        self.taken[optimizer] = loss
        finite = math.isfinite(loss) and math.isfinite(grad_norm)
        return UpdateVerdict("good" if finite else "non_finite_loss", loss, grad_norm)


def smoothed(still: Sequence[float], moved: Sequence[float]) -> list[float]:
    """Return the moving average of how far each loss fell below the one without updates, as a share of that."""
    gains: list[float] = []
    average = weight = 0.0
    for before, after in zip(still, moved, strict=False):  # a test may end early
        gain = 1 - after / before if before else 0.0
        if not math.isfinite(gain):
            break
        average, weight = SMOOTH * average + (1 - SMOOTH) * gain, SMOOTH * weight + (1 - SMOOTH)
        gains.append(average / weight)
    return gains


def propose(lrs: Sequence[float], gains: Sequence[float]) -> float | None:
    """Return a tenth of the LR with the largest gain; None where there is hardly any."""
    best = max(range(len(gains)), key=gains.__getitem__, default=0)
    if not gains or gains[best] < CLEAR:
        return None
    return float(f"{lrs[best] / BELOW_BEST:.1e}")
