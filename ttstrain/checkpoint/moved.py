"""How far each module of a model moved between two checkpoints."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MOST = 40  # modules; the names are cut as deep as this allows


@dataclass(frozen=True, slots=True)
class Gap:
    """||b - a|| and ||a|| of one tensor."""

    gap: float
    size: float

    @property
    def relative(self) -> float | None:
        """Return the relative change; 0 for equal tensors, even of zeros; None where it is not a number."""
        if self.gap == 0:
            return 0.0
        change = self.gap / self.size if self.size else math.nan
        return change if math.isfinite(change) else None


@dataclass(frozen=True, slots=True)
class ModuleChange:
    """A module's relative change over all its tensors, None if that is not a number."""

    name: str
    distance: float | None
    parameters: int


def by_module(gaps: Mapping[str, Gap], sizes: Mapping[str, int], *, most: int = MOST) -> list[ModuleChange]:
    """Sum the changes of tensors by module, in the order of the names; `sizes` are numbers of elements.

    Modules are as small as `most` of them allow: each block by itself where the blocks are few enough.
    """
    paths = {name: tuple(name.split(".")[:-1]) or (name,) for name in gaps}
    depth = _depth(list(paths.values()), most=most)
    members: dict[tuple[str, ...], list[str]] = {}
    for name, path in paths.items():
        members.setdefault(path[:depth], []).append(name)
    common = _common(list(members))
    return [
        ModuleChange(
            name=".".join(path[common:]),
            distance=_together([gaps[name] for name in names]).relative,
            parameters=sum(sizes[name] for name in names),
        )
        for path, names in sorted(members.items(), key=lambda item: _natural(item[0]))
    ]


def _together(gaps: Sequence[Gap]) -> Gap:
    return Gap(math.hypot(*(one.gap for one in gaps)), math.hypot(*(one.size for one in gaps)))


def _depth(paths: Sequence[tuple[str, ...]], *, most: int) -> int:
    """Return the number of leading parts that name at most `most` modules; at least one."""
    depth = 1
    for deeper in range(2, 1 + max((len(path) for path in paths), default=1)):
        if len({path[:deeper] for path in paths}) > most:
            break
        depth = deeper
    return depth


def _common(paths: Sequence[tuple[str, ...]]) -> int:
    """Return how many leading parts all paths share; each keeps its last part."""
    shortest = min((len(path) for path in paths), default=1)
    shared = 0
    while shared < shortest - 1 and len({path[shared] for path in paths}) == 1:
        shared += 1
    return shared


def _natural(path: tuple[str, ...]) -> list[list[tuple[int, str]]]:
    """Order `blocks.10` behind `blocks.9`."""
    return [[(int(part or 0) if part.isdecimal() else -1, part) for part in re.split(r"(\d+)", one)] for one in path]
