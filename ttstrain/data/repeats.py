"""Which of many texts occur more than once. A set of a million takes several times as long as sorting their hashes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def all_differ(values: Sequence[str]) -> bool:
    """Tell whether no value occurs twice."""
    ordered = np.sort(_hashes(values))
    return not (ordered[1:] == ordered[:-1]).any() or len(set(values)) == len(values)


def maybe_repeated(values: Sequence[str]) -> list[int]:
    """Return the places of all values that occur more than once, and perhaps of others with equal hashes."""
    hashes = _hashes(values)
    order = np.argsort(hashes, kind="stable")
    same = hashes[order[1:]] == hashes[order[:-1]]  # (n - 1,)
    repeated = np.zeros(len(values), dtype=bool)
    repeated[order[1:][same]] = True
    repeated[order[:-1][same]] = True
    places: list[int] = np.flatnonzero(repeated).tolist()
    return places


def _hashes(values: Sequence[str]) -> npt.NDArray[np.int64]:
    return np.fromiter(map(hash, values), dtype=np.int64, count=len(values))
