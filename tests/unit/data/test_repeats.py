from __future__ import annotations

import random

import pytest

from ttstrain.data import repeats
from ttstrain.data.repeats import all_differ, maybe_repeated


@pytest.mark.parametrize("values", [[], ["a"], ["a", "b", ""], ["a", "b", "a"], ["", ""]], ids=str)
def test_values_that_occur_twice_are_found(values: list[str]) -> None:
    assert all_differ(values) == (len(set(values)) == len(values))
    assert maybe_repeated(values) == [i for i, value in enumerate(values) if values.count(value) > 1]


def test_many_values_are_compared() -> None:
    dice = random.Random(0)
    values = [str(dice.randrange(3000)) for _ in range(2000)]
    assert maybe_repeated(values) == [i for i, value in enumerate(values) if values.count(value) > 1]


def test_equal_hashes_are_not_taken_for_equal_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "hash", len, raising=False)
    assert all_differ(["ab", "cd", "e"])
    assert not all_differ(["ab", "ab", "e"])
    assert maybe_repeated(["ab", "cd", "e"]) == [0, 1]
