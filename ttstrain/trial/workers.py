"""How long a step waits for its data, with different numbers of loader processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from time import perf_counter

from ttstrain.data.location import usable_cores
from ttstrain.train import build
from ttstrain.train.prepare import Prepared
from ttstrain.train.run import Run
from ttstrain.trial.scratch import take_whole_step

ENOUGH = 0.02  # share of a step's time that it may wait for data
FIRST = 2  # steps that are not counted: processes start, memory is taken
STEPS = 6


@dataclass(frozen=True, slots=True)
class Waited:
    """The data wait with a number of loader processes."""

    workers: int
    data_s: float  # a step's mean
    step_s: float  # likewise, data included

    @property
    def share(self) -> float:
        return self.data_s / self.step_s


def measure_waits(run: Run, prepared: Prepared) -> list[Waited]:
    """Measure the wait without loader processes, then with more and more of them until it is short enough.

    The run's loader is put back afterwards; the weights are trained meanwhile. Raises OutOfMemoryError where a step
    does not fit.
    """
    own = run.loader
    found: list[Waited] = []
    try:
        for count in _counts():
            found.append(_measure(run, prepared, workers=count))
            if found[-1].share <= ENOUGH:
                break
    finally:
        run.loader = own
    return found


def best_of(waits: list[Waited]) -> Waited:
    """Return the fewest processes with which the wait is short enough; where there are none, the shortest steps."""
    enough = [one for one in waits if one.share <= ENOUGH]
    return enough[0] if enough else min(waits, key=lambda one: one.step_s)


def processes(count: int) -> str:
    """Write a number of loader processes."""
    return f"{count} loader process{'' if count == 1 else 'es'}"


def _counts() -> Iterator[int]:
    yield 0
    count = 1
    while count <= usable_cores():
        yield count
        count *= 2


def _measure(run: Run, prepared: Prepared, *, workers: int) -> Waited:
    run.loader = build.make_loader(run.plan, replace(prepared, workers=workers), run.device, run.ranks)
    waited = whole = 0.0
    try:
        for step in range(FIRST + STEPS):
            started = perf_counter()
            batches = run.loader.next(run.plan.accumulate)
            got = perf_counter()
            take_whole_step(run, batches)
            if step >= FIRST:
                waited += got - started
                whole += perf_counter() - started
    finally:
        run.loader.close()
    return Waited(workers, waited / STEPS, whole / STEPS)
