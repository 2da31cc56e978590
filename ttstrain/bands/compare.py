"""Where a run's curves lie: inside, above or below the band of its recipe's reference runs.

Losses and gradient norms of single steps depend on the clips of a step, so they are compared as means over stretches of
steps, on a logarithmic scale: a factor counts the same everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from ttstrain.bands.band import STEPS, Band, Points

LOOKS = (10, 25, STEPS)  # steps after which a run is compared; a shorter one after its last step
LEAST = 0.4  # share of a stretch's steps that must have been logged
NARROWEST = {"train/loss/": 0.08, "optim/grad_norm/": 0.3, "eval/loss/": 0.1}  # least margin, in log units
PAIRED = 0.004  # margin of the first evaluation of the same seed, in log units: clips, noise and weights are the same
SPREADS = 3.0  # standard deviations beyond the outermost reference run

Place = Literal["inside", "above", "below"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One stretch of one metric beside its band."""

    key: str
    first: int  # step; an evaluation has one
    last: int
    value: float  # geometric mean over the stretch
    low: float  # of the reference runs, without the margin
    high: float
    position: float  # 0 in the middle of the band, 1 at its upper edge, -1 at its lower one

    @property
    def place(self) -> Place:
        return place_of(self.position)

    @property
    def is_loss(self) -> bool:
        return "/loss/" in self.key


@dataclass(frozen=True, slots=True)
class Edges:
    """A metric's band over one stretch of steps: a mean between `low` and `high` is inside."""

    first: int
    last: int
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class _Stretch:
    """The logarithms of a metric's means in the reference runs, over one stretch of steps."""

    first: int
    last: int
    logs: Sequence[float]  # one for each reference run
    margin: float = 0.0  # beyond the outermost of them, still inside

    @property
    def middle(self) -> float:
        return (max(self.logs) + min(self.logs)) / 2

    @property
    def half(self) -> float:
        """Half of the band's width, margin included."""
        return (max(self.logs) - min(self.logs)) / 2 + self.margin

    @property
    def spread(self) -> float:
        return max(self.logs) - min(self.logs)

    @property
    def variance(self) -> float:
        mean = math.fsum(self.logs) / len(self.logs)
        return math.fsum((value - mean) ** 2 for value in self.logs) / max(len(self.logs) - 1, 1)


def looks(steps: int) -> list[int]:
    """Return the steps after which a run of this length is compared."""
    last = min(steps, STEPS)
    return [*(look for look in LOOKS if look < last), last]


def compare(observed: Mapping[str, Points], band: Band, *, seed: int, upto: int) -> list[Finding]:
    """Compare what a run has logged up to a step with its band, stretch by stretch.

    A metric that is not always positive has no band. A stretch of which too little was logged is left out.
    """
    findings: list[Finding] = []
    for key in band.keys:
        if key in observed:
            findings += _of_key(key, observed[key], band, seed=seed, upto=upto)
    return findings


def edges(key: str, band: Band, *, seed: int) -> list[Edges]:
    """Return a metric's band, for a run of this seed; empty for a metric that has none."""
    if key not in band.keys:
        return []
    return [
        Edges(one.first, one.last, math.exp(one.middle - one.half), math.exp(one.middle + one.half))
        for one in _banded(key, band, seed=seed)
    ]


def place_of(position: float) -> Place:
    """Name a position: 0 is the middle of a band, 1 its upper edge, -1 its lower one."""
    return "above" if position > 1 else "below" if position < -1 else "inside"


def worst(findings: Sequence[Finding]) -> Finding | None:
    """Return what lies farthest outside, a loss before a gradient norm; None where all is inside."""
    outside = [finding for finding in findings if finding.place != "inside"]
    losses = [finding for finding in outside if finding.is_loss]
    return max(losses or outside, key=lambda finding: abs(finding.position), default=None)


def _of_key(key: str, points: Points, band: Band, *, seed: int, upto: int) -> Iterator[Finding]:
    for stretch in _banded(key, band, seed=seed):
        value = None if stretch.last > upto else _mean_log(points, stretch.first, stretch.last)
        if value is None:
            continue
        yield Finding(
            key,
            stretch.first,
            stretch.last,
            value=math.exp(value) if math.isfinite(value) else math.inf,
            low=math.exp(min(stretch.logs)),
            high=math.exp(max(stretch.logs)),
            position=(value - stretch.middle) / stretch.half,
        )


def _banded(key: str, band: Band, *, seed: int) -> Iterator[_Stretch]:
    """Yield the stretches of a metric with their margins; none for a metric that is not always positive."""
    curves = [run.points[key] for run in band.runs]
    if any(value <= 0 for curve in curves for value in curve.values()):
        return
    stretches = list(_stretches(key, curves, band.steps))
    if not stretches:
        return
    pooled = math.sqrt(math.fsum(stretch.variance for stretch in stretches) / len(stretches))
    narrowest = next(least for place, least in NARROWEST.items() if key.startswith(place))
    for stretch in stretches:
        margin, logs = max(stretch.spread, SPREADS * pooled, narrowest), stretch.logs
        if stretch.last == 0 and (own := [run for run in band.runs if run.seed == seed]):
            margin, logs = PAIRED, [math.log(own[0].points[key][0])]
        yield replace(stretch, logs=logs, margin=margin)


def _stretches(key: str, curves: Sequence[Points], steps: int) -> Iterator[_Stretch]:
    if key.startswith("eval/"):
        pairs = [(step, step) for step in curves[0] if all(step in curve for curve in curves)]
    else:
        pairs = [(before + 1, end) for before, end in pairwise([0, *looks(steps)])]
    for first, last in pairs:
        logs = [_mean_log(curve, first, last) for curve in curves]
        known = [value for value in logs if value is not None]
        if len(known) == len(logs):
            yield _Stretch(first, last, known)


def _mean_log(points: Points, first: int, last: int) -> float | None:
    """Return the mean logarithm over a stretch; infinite where a value is not finite, None if too few were logged."""
    values = [points[step] for step in range(first, last + 1) if step in points]
    if len(values) < LEAST * (last + 1 - first) or not values:
        return None
    if not all(math.isfinite(value) for value in values):
        return math.inf
    return math.fsum(math.log(max(value, 1e-12)) for value in values) / len(values)
