"""How scores become a ranking."""

from __future__ import annotations

from pathlib import Path

import pytest

from ttstrain.contract.data import Clip
from ttstrain.judge.score import exchanged, rank


def clip(name: str, text: str = "") -> Clip:
    return Clip(id=name, path=Path(f"{name}.wav"), text=text or name, duration_s=1.0, sample_rate=24_000)


def test_an_outlier_is_suspicious_however_many_there_are() -> None:
    values = {f"c{i}": 0.10 + 0.001 * (i % 5) for i in range(20)} | {f"x{i}": 0.01 * i for i in range(5)}
    found = rank([clip(name) for name in values], values, dict.fromkeys(values, 0.0), checkpoint="a run")
    assert [entry.clip.id for entry in found.scores[:5]] == ["x0", "x1", "x2", "x3", "x4"]
    assert [entry.clip.id for entry in found.suspicious] == ["x0", "x1", "x2", "x3", "x4"]


def test_what_another_text_explains_as_well_is_suspicious() -> None:
    values = {"a": 0.1, "b": 0.3, "c": 0.5, "d": 0.7}  # too far apart for any to be an outlier
    found = rank([clip(name) for name in values], values, {"a": 0.0, "b": 0.2, "c": 0.2, "d": 0.3}, checkpoint="a run")
    assert [entry.clip.id for entry in found.suspicious] == ["a"]


def test_z_counts_robust_deviations_from_the_median() -> None:
    values = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0, "e": 100.0}
    found = rank([clip(name) for name in values], values, values, checkpoint="a run")
    assert {entry.clip.id: entry.z for entry in found.scores}["a"] == pytest.approx(-2 / 1.4826)


def test_equal_scores_are_nobodys_fault() -> None:
    values = dict.fromkeys("abc", 0.5)
    found = rank([clip(name) for name in values], values, values, checkpoint="a run")
    assert [entry.z for entry in found.scores] == [0, 0, 0]
    assert (found.separation, found.reliable) == (0.5, False)


def test_separation_is_the_share_of_pairs_in_order() -> None:
    own, foreign = {"a": 3.0, "b": 1.0}, {"a": 2.0, "b": 0.0}
    found = rank([clip("a"), clip("b")], own, foreign, checkpoint="a run")
    assert found.separation == 0.75  # three of four pairs


def test_a_clip_is_given_its_neighbours_text_that_differs() -> None:
    clips = [clip("a", "one"), clip("b", "two"), clip("c", "one"), clip("d", "one")]
    assert [partner.id for partner in exchanged(clips, order=[0, 2, 3, 1])] == ["b", "a", "b", "b"]
    alike = [clip("a", "one"), clip("b", "one")]
    assert exchanged(alike, order=[0, 1]) == alike


def test_partners_of_many_clips_are_found_without_looking_at_all_of_them() -> None:
    class Order(list[int]):
        looked = 0

        def __getitem__(self, place: object) -> object:  # type: ignore[override]
            part = super().__getitem__(place)  # type: ignore[index]
            Order.looked += len(part) if isinstance(part, list) else 1
            return part

    clips = [clip(str(number)) for number in range(2000)]
    assert [partner.id for partner in exchanged(clips, order=Order(range(2000)))][:2] == ["1", "2"]
    assert Order.looked <= 2 * len(clips)
