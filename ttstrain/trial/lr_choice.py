"""Which learning rate follows from a range test: a tenth of the one at which the loss first becomes clearly worse.

The loss is lowest somewhere on a broad plateau, and where exactly is chance: the clips of a step differ more than the
learning rates do. The end of the plateau is sharp. There an update overshoots, and the loss is worse than that of the
weights which the test began with. In the test each LR acts for one step only, in a run for thousands, so a run needs
less: fast.ai's `lr_find` (`minimum`) takes a tenth of what its test shows too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

SHARE = 0.1  # of the LR at which the loss becomes worse
WINDOW = 5  # steps of the centred mean
CLEAR = 0.002  # share of the loss: it must fall by as much to say anything, and rise by as much to be worse
OVERSHOT = 0.5  # of the largest mean gain: the loss is worse once it is as far above that without updates

How = Literal["worse", "lowest", "limit", "follows", "flat", "rises"]


@dataclass(frozen=True, slots=True)
class Choice:
    """The LR that is proposed for a group, and how it was found.

    `worse`: a tenth of `at`, where the loss became worse than without updates. `lowest`: no LR made it worse; a tenth
    of `at`, where it was lowest. `limit`: either would be more than a plan accepts. `follows`: what the group learns is
    not exported and only serves another group, `leader`, so it keeps its share of that group's LR. None is proposed
    where the loss hardly fell (`flat`), or only rose (`rises`).
    """

    how: How
    lr: float | None = None
    at: float | None = None
    leader: str = ""

    def halved(self) -> Choice:
        """Propose half of it."""
        return self if self.lr is None else replace(self, lr=rounded(self.lr / 2))


def choose(lrs: Sequence[float], gains: Sequence[float], *, highest: float = math.inf) -> Choice:
    """Choose from rising LRs and how far the loss fell at each, as a share of the loss without updates.

    A gain that is not finite is a loss that is worse. No more than `highest` is proposed.
    """
    means = smoothed(gains)
    end = first_worse(gains)
    helped = means[:end]  # a mean near the end holds the fall
    best = max(range(len(helped)), key=helped.__getitem__, default=0)
    if not helped or helped[best] < CLEAR:
        return Choice("rises" if end is not None else "flat")
    at = lrs[best] if end is None else lrs[end]
    if SHARE * at > highest:
        return Choice("limit", highest, at)
    return Choice("lowest" if end is None else "worse", rounded(SHARE * at), at)


def first_worse(gains: Sequence[float]) -> int | None:
    """Return the place of the first loss that is clearly above the one without updates; None where there is none."""
    means = smoothed(gains)
    best = 0.0
    for i, gain in enumerate(gains):
        if not math.isfinite(gain) or gain < -max(CLEAR, OVERSHOT * best):
            return i
        best = max([best, *means[: max(i - WINDOW // 2, 0)]])  # means of finished steps only
    return None


def smoothed(gains: Sequence[float]) -> list[float]:
    """Return the centred moving mean of the gains up to the first one that is not finite, shorter at both ends."""
    known = list(gains)[: next((i for i, gain in enumerate(gains) if not math.isfinite(gain)), len(gains))]
    half = WINDOW // 2
    parts = [known[max(i - half, 0) : i + half + 1] for i in range(len(known))]
    return [math.fsum(part) / len(part) for part in parts]


def rounded(lr: float) -> float:
    """Round to two digits."""
    return float(f"{lr:.1e}")
