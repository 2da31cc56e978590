"""Micro-batches of one epoch, held in two arrays: as lists, a million clips are a gigabyte of small objects."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Batches(Sequence[list[int]]):
    """Micro-batches in order, each a list of indices of clips; none is empty."""

    members: Indices  # (n,): the clips of the first micro-batch, of the second, ...
    ends: Indices  # (b,): where each ends in `members`

    @classmethod
    def of(cls, batches: Sequence[Sequence[int]]) -> Batches:
        """Hold lists as arrays."""
        members = np.fromiter(itertools.chain.from_iterable(batches), dtype=np.int64)
        return cls(members, np.cumsum([len(batch) for batch in batches], dtype=np.int64))

    @property
    def starts(self) -> Indices:
        """(b,): where each begins in `members`."""
        return self.ends - self.sizes

    @property
    def sizes(self) -> Indices:
        """(b,): how many clips each has."""
        return np.diff(self.ends, prepend=0)

    def chosen(self, numbers: Indices) -> Batches:
        """Return the micro-batches of these numbers, in their order."""
        sizes = self.sizes[numbers]
        ends = np.cumsum(sizes)
        moved = np.repeat(self.starts[numbers] - (ends - sizes), sizes)
        return Batches(self.members[moved + np.arange(len(moved))], ends)

    def of_members(self, drawn_from: Indices) -> Batches:
        """Return the micro-batches with each index replaced by the one at its place in `drawn_from`."""
        return Batches(drawn_from[self.members], self.ends)

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, number: int) -> list[int]: ...

    @overload
    def __getitem__(self, number: slice) -> list[list[int]]: ...

    def __getitem__(self, number: int | slice) -> list[int] | list[list[int]]:
        if isinstance(number, slice):
            return [self[one] for one in range(len(self))[number]]
        at = range(len(self))[number]
        batch: list[int] = self.members[self.ends[at - 1] if at else 0 : self.ends[at]].tolist()
        return batch
