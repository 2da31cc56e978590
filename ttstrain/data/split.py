"""Which clips are held out: a pure function of the clips and a seed. Imports no torch."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ttstrain.contract.data import Clip
from ttstrain.data.earlier import Earlier, Part, Side
from ttstrain.data.in_columns import column, taken
from ttstrain.digest import sha256_of_each
from ttstrain.errors import DataError
from ttstrain.recipe.schema import DataConfig

MOST_HELD_OUT = 64  # clips, if `holdout` is a share; a number of clips is not limited


@dataclass(frozen=True, slots=True)
class Split:
    """Training and held-out clips."""

    train: Sequence[Clip]
    held_out: Sequence[Clip]


@dataclass(frozen=True, slots=True)
class DataSplit:
    """All clips of a run, by use."""

    train: Sequence[Clip]
    held_out: Sequence[Clip]
    replay: Sequence[Clip]  # drawn from anew for every epoch
    retained: Sequence[Clip]  # held out of the replay data
    num_shared: int = 0  # clips of the replay data left out because the data hold the same recording


def split_data(
    clips: Sequence[Clip], replay: Sequence[Clip], data: DataConfig, *, seed: int, earlier: Earlier | None = None
) -> DataSplit:
    """Split the clips of a run. Replay clips that the data hold too are dropped, so no held-out clip is trained on.

    A resumed run keeps the held-out clips that it had `earlier`; new clips are all trained on.
    """
    own = _split(clips, data.holdout, seed, earlier=earlier)
    if data.replay is None:
        return DataSplit(own.train, own.held_out, [], [])
    known = {clip.digest for clip in clips if clip.digest}
    others = [clip for clip in replay if clip.digest not in known]
    if not others:
        raise DataError(
            "no clip is left to replay: all are in the data themselves" if replay else "no clip is left to replay",
            hint="`data.replay.path` names other recordings than `data.path`",
        )
    split = _split(others, data.replay.holdout, seed, key="data.replay.holdout", earlier=earlier)
    return DataSplit(own.train, own.held_out, split.train, split.held_out, len(replay) - len(others))


def _split(
    clips: Sequence[Clip], holdout: float, seed: int, *, key: str = "data.holdout", earlier: Earlier | None
) -> Split:
    """Keep the earlier hold-out; choose one if there was none or the user asks for a new choice."""
    side = None if earlier is None else earlier.data if key == "data.holdout" else earlier.replay
    if earlier is None or side is None:
        return split_holdout(clips, holdout, seed, key=key)
    if key in earlier.drawn_anew:
        return split_holdout(clips, holdout, seed, key=key, before=side)
    held = {clip.id for clip in clips if side.part_of(clip) == "held out"}
    # In the earlier order: evaluation draws its noise in this order, and sorting the table must not change the loss.
    return Split(
        [clip for clip in clips if clip.id not in held],
        sorted((clip for clip in clips if clip.id in held), key=side.place_of),
    )


def split_holdout(
    clips: Sequence[Clip], holdout: float, seed: int, *, key: str = "data.holdout", before: Side | None = None
) -> Split:
    """Choose held-out clips by a hash of their content or id, so that adding clips changes the choice little.

    `holdout` is a number of clips (int) or a share (float), from the recipe's `key`. Byte-equal recordings are never
    split between training and hold-out. Clips that were held out `before` are chosen first, then new ones, then those
    that were trained on.
    """
    wanted = holdout if isinstance(holdout, int) else min(MOST_HELD_OUT, max(1, round(holdout * len(clips))))
    if wanted >= len(clips):
        if isinstance(holdout, int) and holdout > 0:
            raise DataError(
                f"`{key}={holdout}` leaves no clip to train on ({len(clips)} in all)",
                hint=f"hold out fewer, or none with `{key}=0`; a run that measures none needs `eval.every=null` too",
            )
        wanted = 0
    held = _first_by_hash(clips, wanted, seed, before=before)
    return Split(taken(clips, [i for i in range(len(clips)) if i not in held]), taken(clips, sorted(held)))


def _first_by_hash(clips: Sequence[Clip], wanted: int, seed: int, *, before: Side | None) -> set[int]:
    """Return the places of `wanted` clips, or a few more where recordings are equal; never of all clips."""
    if not wanted:
        return set()
    order: Mapping[Part, int] = {"held out": 0, "new": 1, "train": 2}
    names, digests = column(clips, "id"), column(clips, "digest")
    if any(digests):
        names = [digest or id_ for digest, id_ in zip(digests, names, strict=True)]
    hashes = sha256_of_each(names, after=f"{seed}/")
    every = range(len(clips))
    if before is not None:
        return _first(((order[before.part_of(clips[i])], hashes[i], i) for i in every), wanted, most=len(clips))
    held = _first(((0, hashes[i], i) for i in _lowest(hashes, 2 * wanted)), wanted, most=len(clips))
    return held if len(held) >= wanted else _first(((0, hashes[i], i) for i in every), wanted, most=len(clips))


def _lowest(hashes: Sequence[bytes], count: int) -> Sequence[int]:
    """Return the places of at least so many of the lowest hashes, and of all hashes equal to one of them."""
    if len(hashes) <= count:
        return range(len(hashes))
    starts = np.frombuffer(b"".join(hashes), dtype=">u8").reshape(len(hashes), -1)[:, 0].astype(np.uint64)  # (n,)
    places: list[int] = np.flatnonzero(starts <= np.partition(starts, count)[count]).tolist()
    return places


def _first(ranked: Iterable[tuple[int, bytes, int]], wanted: int, *, most: int) -> set[int]:
    """Return the places of the first of (rank, hash, place), equal ones together, and fewer than `most`."""
    left = list(ranked)
    heapq.heapify(left)  # few are taken of many
    held: set[int] = set()
    while left and len(held) < wanted:
        equal = [heapq.heappop(left)]
        while left and left[0][:2] == equal[0][:2]:
            equal.append(heapq.heappop(left))
        if len(held) + len(equal) < most:
            held |= {i for *_, i in equal}
    return held
