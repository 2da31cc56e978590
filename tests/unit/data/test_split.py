"""Which of many clips are held out."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from ttstrain.contract.data import Clip
from ttstrain.data.split import split_holdout


def clips_of(digests: list[str]) -> list[Clip]:
    return [
        Clip(id=f"clip-{i}", path=Path(f"{i}.wav"), text="Hello.", duration_s=1.0, sample_rate=24_000, digest=digest)
        for i, digest in enumerate(digests)
    ]


def lowest(digests: list[str], count: int) -> set[str]:
    """Return the ids of the clips with the lowest hashes; with one, all whose recordings are equal."""
    known_by = {f"clip-{i}": digest or f"clip-{i}" for i, digest in enumerate(digests)}
    ordered = sorted(known_by, key=lambda id_: hashlib.sha256(f"3/{known_by[id_]}".encode()).hexdigest())
    chosen = {known_by[id_] for id_ in ordered[:count]}
    return {id_ for id_ in ordered if known_by[id_] in chosen}


@pytest.mark.parametrize("holdout", [1, 5, 40, 150])
def test_those_with_the_lowest_hashes_are_held_out(holdout: int) -> None:
    dice = random.Random(1)
    digests = [dice.choice(["", f"{dice.random()}", f"{dice.randrange(40)}"]) for _ in range(200)]
    split = split_holdout(clips_of(digests), holdout, seed=3)
    assert {clip.id for clip in split.held_out} == lowest(digests, holdout)
    assert sorted(clip.id for clip in (*split.train, *split.held_out)) == sorted(f"clip-{i}" for i in range(200))


def test_equal_recordings_are_never_all_held_out() -> None:
    split = split_holdout(clips_of(["same"] * 100), 3, seed=3)
    assert (len(split.train), len(split.held_out)) == (100, 0)
