"""Give each clip its words of a long text: by what a recogniser heard in it, or by duration alone. No torch."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from ttstrain.data.transcript import spoken_seconds
from ttstrain.recordings.pairing import pair
from ttstrain.recordings.units import Unit, text_of

STOP_S = 0.35  # how much a mark at a cut outweighs a mismatch of durations
REACH = 60  # units around the proportional place that are tried as a cut
SLACK_S = 0.3
FASTEST = 1.3  # a run of words without a sound of its own is left out if it would have to be said faster than people do


@dataclass(frozen=True, slots=True)
class Placed:
    """A clip's share of the text."""

    first: int  # of its units
    last: int  # the one after its last
    fit: float | None  # share of its words that were heard as written; None where nothing was heard


@dataclass(frozen=True, slots=True)
class Placing:
    """Where a text lies in its clips, and what of it lies nowhere."""

    clips: list[Placed]
    lost: list[tuple[int, int]]  # runs of units that no clip says
    heard: float  # share of the text's words that were heard as written


def place(text: str, units: Sequence[Unit], heard: Sequence[Sequence[str]], speech_s: Sequence[float]) -> Placing:
    """Place units in clips by the words heard in each, in order; `speech_s` are the clips' seconds of speech."""
    words = [(number, key) for number, keys in enumerate(heard) for key in keys]
    pairs = pair([unit.key for unit in units], [key for _, key in words])
    owner = [None if j is None else words[j][0] for j in pairs]
    equal = [j is not None and words[j][1] == unit.key for unit, j in zip(units, pairs, strict=True)]
    lost = _settle(text, units, owner, speech_s)
    owned: dict[int | None, list[int]] = {}
    for i, number in enumerate(owner):
        owned.setdefault(number, []).append(i)
    clips = []
    at = 0
    for number in range(len(heard)):
        mine = owned.get(number, [])
        first, last = (mine[0], mine[-1] + 1) if mine else (at, at)
        fit = sum(equal[i] for i in mine) / len(mine) if mine else None
        clips.append(Placed(first, last, fit))
        at = last
    return Placing(clips, lost, sum(equal) / max(1, len(units)))


def _settle(
    text: str, units: Sequence[Unit], owner: list[int | None], speech_s: Sequence[float]
) -> list[tuple[int, int]]:
    """Give runs of units that were not heard to the clips around them; return the runs that do not fit there."""
    pace = _pace(units, owner, speech_s)
    free = _free(units, owner, speech_s, pace)
    lost: list[tuple[int, int]] = []
    i = 0
    while i < len(units):
        if owner[i] is not None:
            i += 1
            continue
        end = next((k for k in range(i, len(units)) if owner[k] is not None), len(units))
        left = owner[i - 1] if i else None
        right = owner[end] if end < len(units) else None
        if not _give(text, units, owner, (i, end), around=(left, right), free=free):
            lost.append((i, end))
        for unit, number in zip(units[i:end], owner[i:end], strict=True):
            if number is not None:
                free[number] -= len(unit.key) / pace
        i = end
    return lost


def _give(
    text: str,
    units: Sequence[Unit],
    owner: list[int | None],
    run: tuple[int, int],
    *,
    around: tuple[int | None, int | None],
    free: Sequence[float],
) -> bool:
    """Divide a run of units among the clips from the left neighbour's to the right one's; False if they cannot say it.

    `free`: seconds of speech of each clip that have no words yet.
    """
    start, end = run
    left = around[0] if around[0] is not None else 0
    right = around[1] if around[1] is not None else len(free) - 1
    rooms = [max(0.0, free[number]) for number in range(left, right + 1)]
    needed = spoken_seconds(text_of(text, units[start:end])).least
    at_home = around[0] is not None and around[0] == around[1]  # a few words between words of one clip
    if not at_home and needed > FASTEST * sum(rooms) + SLACK_S:
        return False
    cuts = divide(units[start:end], rooms) if len(rooms) > 1 else [end - start]
    at = start
    for number, size in enumerate(cuts):
        for i in range(at, at + size):
            owner[i] = left + number
        at += size
    return True


def _pace(units: Sequence[Unit], owner: Sequence[int | None], speech_s: Sequence[float]) -> float:
    """Return letters a second of the clips that say words."""
    letters = sum(len(unit.key) for unit, number in zip(units, owner, strict=True) if number is not None)
    seconds = sum(speech_s[number] for number in {number for number in owner if number is not None})
    return letters / seconds if letters and seconds else 12.0


def _free(units: Sequence[Unit], owner: Sequence[int | None], speech_s: Sequence[float], pace: float) -> list[float]:
    said = [0.0] * len(speech_s)
    for unit, number in zip(units, owner, strict=True):
        if number is not None:
            said[number] += len(unit.key) / pace
    return [seconds - words for seconds, words in zip(speech_s, said, strict=True)]


# ---------------------------------------------------------------- by duration alone


def place_by_duration(units: Sequence[Unit], speech_s: Sequence[float]) -> Placing:
    """Place units in clips so that letters a second are as even as can be, with cuts at marks where there are some."""
    clips = []
    at = 0
    for size in divide(units, speech_s):
        clips.append(Placed(at, at + size, None))
        at += size
    return Placing(clips, [], 0.0)


def divide(units: Sequence[Unit], rooms: Sequence[float]) -> list[int]:
    """Divide units among rooms of so many seconds, in order: return how many each gets.

    The cost of a room is the square of its seconds too many or too few, relative to one second; a cut after a mark
    costs less than one between two words.
    """
    n, total = len(units), sum(rooms)
    before = [0.0]  # letters before each unit
    for unit in units:
        before.append(before[-1] + len(unit.key))
    pace = before[-1] / total if total else 1.0
    costs = {0: 0.0}
    ways: list[dict[int, int]] = []
    passed = 0.0
    for number, room in enumerate(rooms):
        passed += room
        ends = [n] if number == len(rooms) - 1 else _near(before, passed * pace)
        reached: dict[int, float] = {}
        way: dict[int, int] = {}
        for end in ends:
            for start, cost in costs.items():
                if start > end:
                    continue
                mismatch = (before[end] - before[start]) / pace - room if pace else 0.0
                marked = units[end - 1].stop if end else 1.0
                sum_ = cost + mismatch**2 + STOP_S * (1 - marked)
                if sum_ < reached.get(end, math.inf):
                    reached[end], way[end] = sum_, start
        ways.append(way)
        costs = reached
    sizes: list[int] = []
    end = n
    for way in reversed(ways):
        sizes.append(end - way[end])
        end = way[end]
    return sizes[::-1]


def _near(before: Sequence[float], letters: float) -> range:
    """Return the numbers of units around which so many letters lie before."""
    above = bisect_left(before, letters, hi=len(before) - 1)
    middle = above - 1 if above and letters - before[above - 1] <= before[above] - letters else above
    return range(max(0, middle - REACH), min(len(before), middle + REACH + 1))
