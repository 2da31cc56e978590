"""How many sentences the judge may hear at a step between the first and the last."""

from __future__ import annotations

from collections.abc import Sequence

SHARE = 0.1  # of the time since the last listening
FEWEST = 4  # sentences; of fewer nothing can be said


def choices(most: int) -> list[int]:
    """Return how many sentences may be heard, the most first: all, and multiples of `FEWEST`."""
    return [most, *(count for count in range(most - 1, 0, -1) if count % FEWEST == 0)]


def expected(sentences: int, *, shown: int, weights: int, generating: float, listening: float) -> float:
    """Return the seconds that raw weights, or both, take to be heard. The shown sentences are generated anyway."""
    return weights * (sentences * listening + max(0, sentences - shown) * generating)


def affordable(
    counts: Sequence[int], *, allowed: float, shown: int, weights: int, generating: float, listening: float
) -> int:
    """Return the first of the counts that takes no longer than allowed; 0 where none does."""
    for count in counts:
        took = expected(count, shown=shown, weights=weights, generating=generating, listening=listening)
        if took <= allowed:
            return count
    return 0
