"""What a family knows of its nets that lets `ttstrain prove` show they are trained as they are used.

The checks themselves, their limits and their words are `ttstrain/prove`'s: a family only says what to compare.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Change:
    """Outputs of the trained forward before and after one change of its input."""

    changed: str  # what was changed, "hidden frames of the mel"
    unmoved: str  # what must not move, "answers at all frames"; "" where only something must move
    before: Tensor  # (u, ...), u units such as frames or targets
    after: Tensor  # (u, ...)
    still: Tensor  # (u,) bool: units that must not move
    moving: Tensor | None = None  # (u,) bool: units of which one must move, or the check would prove nothing


@dataclass(frozen=True, slots=True)
class Twin:
    """The same numbers by the trained forward and by the forward that speaks."""

    what: str  # "the velocity of the solver's first step"
    trained: Tensor
    spoken: Tensor  # of the same shape


@dataclass(frozen=True, slots=True)
class Alignment:
    """How well what is said fits the clip when the clip is shifted against it."""

    what: str  # "what the solver makes of noised frames, against the mel"
    unit: str  # "frames"
    losses: Mapping[int, float]  # shift -> loss; 0 is among them


@dataclass(frozen=True, slots=True)
class Omitted:
    """A check that a setting or the data make impossible."""

    what: str
    why: str


class Proof(Protocol):
    """Built as Class(task). Batches went through `Task.draw` and lie on the device; the task is in eval mode."""

    def terms(self, batch: Any) -> Mapping[str, Mapping[str, Tensor]]:
        """Compute what each loss consists of, from the definition and with gradients: label -> term -> its share.

        A label's terms add up to the value that `Task.losses` yields under it, with the same random numbers.
        """
        ...

    def changes(self, batch: Any) -> Iterable[Change | Omitted]:
        """Yield changes of the input that something must not depend on; `batch` has two clips or more."""
        ...

    def twins(self, batch: Any) -> Iterable[Twin | Omitted]:
        """Yield numbers that training and speaking must agree on, for a batch of one clip."""
        ...

    def alignments(self, batch: Any) -> Iterable[Alignment | Omitted]:
        """Yield scans of the shifts -2 to 2 between what is said and a batch of one clip, by the forward that speaks.

        The shifts are of the clip, whatever `Task.losses` makes of it: a loss that is shifted itself shows here.
        """
        ...

    def idle(self, batch: Any) -> Mapping[str, str]:
        """Map patterns of parameters that this batch cannot train to the reason."""
        ...
