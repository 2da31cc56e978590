"""Whether words are understood, from how many of a few sentences are nearest to their own recording.

Eight sentences do not show a share to the nearest tenth, so the answer is a probability: that of all sentences the
weights could say, fewer than half would be nearest to their own recording. Before any sentence is heard every share is
as likely as any other (Bayes and Laplace's uniform prior).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Understanding = Literal["understood", "not understood", "not sure", "too few sentences"]

LIMIT = 0.5  # share of all sentences from which words count as understood
DOUBT = 0.05  # a probability up to this, or from 1 less this, is sure


@dataclass(frozen=True, slots=True)
class Count:
    """How many of the sentences that were heard are nearest to their own recording."""

    found: int
    of: int

    @property
    def misheard(self) -> float:
        """The probability that fewer than half of all sentences are nearest to their own recording.

        With a uniform prior the share is Beta(found + 1, of - found + 1), whose distribution at 1/2 is the probability
        of more than `found` heads in `of` + 1 throws of a coin.
        """
        throws = self.of + 1
        return sum(math.comb(throws, heads) for heads in range(self.found + 1, throws + 1)) * 0.5**throws

    @property
    def understanding(self) -> Understanding:
        """What can be said of so few sentences."""
        if Count(self.of, self.of).misheard > DOUBT:
            return "too few sentences"  # not even all of them would be sure
        if self.misheard <= DOUBT:
            return "understood"
        return "not understood" if self.misheard >= 1 - DOUBT else "not sure"


def share_interval(found: int, of: int, *, level: float) -> tuple[float, float]:
    """Return the exact interval of a share (Clopper and Pearson 1934) of which `found` in `of` were seen."""
    tail = (1 - level) / 2
    low = 0.0 if found == 0 else _solve(lambda share: _at_least(found, of, share), tail)
    high = 1.0 if found == of else _solve(lambda share: _at_least(found + 1, of, share), 1 - tail)
    return low, high


def _at_least(found: int, of: int, share: float) -> float:
    return sum(math.comb(of, k) * share**k * (1 - share) ** (of - k) for k in range(found, of + 1))


def _solve(rising: Callable[[float], float], value: float) -> float:
    """Return where a function that rises from 0 to 1 over [0, 1] reaches a value."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < value else (low, middle)
    return (low + high) / 2
