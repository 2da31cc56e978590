"""Pair the words of a text with those that were heard, in order: words that both say, replaced, or on one side only.

Runs of three words that are unique on both sides are anchors; what lies between two anchors is aligned by dynamic
programming with affine gap costs (Gotoh 1982), so that a word said twice is taken where its neighbours are. No torch.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

RUN = 3  # words of an anchor
MOST_CELLS = 4_000_000  # of one alignment; what is larger is left unpaired
REPLACED = 1.0
BEGINS_ALIKE = 0.5  # less for as much of the word
OPEN, LONGER = 0.9, 0.5  # a gap's first word and each further one

Pairs = list[int | None]  # for each word of the text, which heard word it is


def pair(text: Sequence[str], heard: Sequence[str]) -> Pairs:
    """Return for each word of `text` the index of the heard word that stands for it, rising; None without one."""
    found: Pairs = [None] * len(text)
    at_text = at_heard = 0
    for i, j in [*_anchors(text, heard), (len(text), len(heard))]:
        for k, index in enumerate(_aligned(text[at_text:i], heard[at_heard:j])):
            found[at_text + k] = None if index is None else at_heard + index
        if i < len(text):
            found[i] = j
        at_text, at_heard = i + 1, j + 1
    return found


def _anchors(text: Sequence[str], heard: Sequence[str]) -> list[tuple[int, int]]:
    """Return pairs of words that belong to a run that either side holds once, rising on both sides."""
    ours, theirs = _unique_runs(text), _unique_runs(heard)
    places = sorted((i, theirs[run]) for run, i in ours.items() if run in theirs)
    chain = _rising(places)
    return sorted({(i + k, j + k) for i, j in chain for k in range(RUN)} & _consistent(chain))


def _unique_runs(words: Sequence[str]) -> dict[tuple[str, ...], int]:
    runs = [tuple(words[i : i + RUN]) for i in range(len(words) - RUN + 1)]
    counts = Counter(runs)
    return {run: i for i, run in enumerate(runs) if counts[run] == 1}


def _rising(places: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the longest chain of places whose second index rises too (patience sorting)."""
    ends: list[int] = []  # smallest end of a chain of each length
    last: list[int] = []  # its place
    before: list[int | None] = []
    for number, (_, j) in enumerate(places):
        length = bisect_left(ends, j)
        before.append(last[length - 1] if length else None)
        if length == len(ends):
            ends.append(j)
            last.append(number)
        else:
            ends[length], last[length] = j, number
    chain: list[tuple[int, int]] = []
    at = last[-1] if last else None
    while at is not None:
        chain.append(places[at])
        at = before[at]
    return chain[::-1]


def _consistent(chain: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
    """Return the words of the anchors that rise strictly on both sides: overlapping runs may be shifted."""
    kept: set[tuple[int, int]] = set()
    top_text = top_heard = -1
    for i, j in chain:
        for k in range(RUN):
            if i + k > top_text and j + k > top_heard:
                kept.add((i + k, j + k))
                top_text, top_heard = i + k, j + k
    return kept


def _aligned(text: Sequence[str], heard: Sequence[str]) -> Pairs:
    if not text or not heard or len(text) * len(heard) > MOST_CELLS:
        return [None] * len(text)
    n, m = len(text), len(heard)
    # Costs by the last step: paired, a word of the text alone, a heard word alone.
    cost = [[[math.inf] * (m + 1) for _ in range(n + 1)] for _ in range(3)]
    came = [[[0] * (m + 1) for _ in range(n + 1)] for _ in range(3)]
    cost[0][0][0] = 0.0
    for i in range(n + 1):
        for j in range(m + 1):
            if i and j:
                step = 0.0 if text[i - 1] == heard[j - 1] else _replaced(text[i - 1], heard[j - 1])
                _reach(cost, came, (0, i, j), (i - 1, j - 1), (step, step, step))
            if i:
                _reach(cost, came, (1, i, j), (i - 1, j), (OPEN, LONGER, OPEN))
            if j:
                _reach(cost, came, (2, i, j), (i, j - 1), (OPEN, OPEN, LONGER))
    found: Pairs = [None] * n
    state = min(range(3), key=lambda s: cost[s][n][m])
    i, j = n, m
    while i or j:
        previous = came[state][i][j]
        if state == 0:
            found[i - 1] = j - 1
        i, j = (i - (state != 2), j - (state != 1))
        state = previous
    return found


def _replaced(one: str, other: str) -> float:
    """Cost of a heard word in the place of another: less where both begin alike."""
    alike = 0
    while alike < min(len(one), len(other)) and one[alike] == other[alike]:
        alike += 1
    return REPLACED - BEGINS_ALIKE * alike / max(len(one), len(other))


def _reach(
    cost: list[list[list[float]]],
    came: list[list[list[int]]],
    to: tuple[int, int, int],
    before: tuple[int, int],
    steps: tuple[float, float, float],
) -> None:
    """Fill a cell with its cheapest way from the cell before, whose last step was one of three."""
    state, i, j = to
    ways = [cost[s][before[0]][before[1]] + steps[s] for s in range(3)]
    cheapest = min(range(3), key=ways.__getitem__)
    cost[state][i][j], came[state][i][j] = ways[cheapest], cheapest
