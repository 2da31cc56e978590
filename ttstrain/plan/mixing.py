"""The share of clips in a run that also trains on auxiliary examples (without recordings). Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ttstrain.contract.model import MixesAuxiliaryData, Planner

PLACES = 1000  # number of points of a run at which the ratio is evaluated
MOST_TRIES = 50


def auxiliary_ratio(planner: Planner[Any]) -> Callable[[float], float]:
    """Return the rounds of auxiliary examples for each round of clips, at a share of a run; 0 where there are none."""
    return planner.auxiliary_ratio if isinstance(planner, MixesAuxiliaryData) else lambda _progress: 0.0


def clip_share(ratio: Callable[[float], float], *, start: float = 0.0, end: float = 1.0) -> float:
    """Return which share of the rounds between two places of a run are of clips, as `Mixture` makes them.

    `ratio` is the rounds of auxiliary batches for each round of clips, at a share of the run.
    """
    places = (start + (end - start) * (i + 0.5) / PLACES for i in range(PLACES))
    return math.fsum(1 / (1 + ratio(place)) for place in places) / PLACES


def shares_of(ratio: Callable[[float], float], lengths: Sequence[int]) -> list[float]:
    """Return the share of clips in each part of a run whose parts have these lengths."""
    total = max(sum(lengths), 1)
    ends = [sum(lengths[: i + 1]) / total for i in range(len(lengths))]
    return [clip_share(ratio, start=start, end=end) for start, end in zip([0.0, *ends[:-1]], ends, strict=True)]


def solve_shares(
    ratio: Callable[[float], float], lengths_for: Callable[[Sequence[float]], list[int]], *, parts: int
) -> list[float]:
    """Return the share of clips in each part of a run whose parts' lengths follow from these shares.

    A part's share depends on where in the run it lies, and its length, where it is so many passes over the clips,
    depends on the share. `lengths_for` gives the lengths of all parts for shares.
    """
    shares = [clip_share(ratio)] * parts
    lengths: list[int] = []
    for _ in range(MOST_TRIES):
        found = lengths_for(shares)
        if found == lengths:
            break
        lengths, shares = found, shares_of(ratio, found)
    return shares
