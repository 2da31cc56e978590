from __future__ import annotations

import itertools

import numpy as np
import pytest

from ttstrain.recordings.cuts import Part, Wanted, cut

WANTED = Wanted(shortest_s=2, longest_s=10, pause_s=0.4, margin_s=0.1)
FLAT = np.full(20_000, -20.0, np.float32)


def cut_all(*speech: tuple[float, float], wanted: Wanted = WANTED, end_s: float = 200.0) -> list[Part]:
    return cut(speech, FLAT, wanted=wanted, end_s=end_s)


def bounds(parts: list[Part]) -> list[tuple[float, float]]:
    return [(round(part.start_s, 3), round(part.end_s, 3)) for part in parts]


def test_a_long_pause_divides_and_a_short_one_does_not() -> None:
    parts = cut_all((1, 4), (4.2, 6), (7, 10))
    assert bounds(parts) == [(0.9, 6.05), (6.9, 10.05)]
    assert [part.speech_s for part in parts] == pytest.approx([4.8, 3.0])


def test_a_margin_takes_at_most_half_of_a_pause() -> None:
    wanted = Wanted(shortest_s=1, longest_s=4, pause_s=0.4, margin_s=1.0)
    assert bounds(cut_all((0.2, 3.2), (3.6, 6.6), wanted=wanted, end_s=6.7)) == [(0, 3.4), (3.4, 6.7)]


def test_a_clip_too_long_is_cut_at_its_longest_pauses() -> None:
    parts = cut_all((0, 4), (4.15, 8), (8.3, 12), (12.1, 15.9))
    assert [round(part.end_s, 2) for part in parts] == [8.05, 15.95]


def test_a_short_stretch_joins_its_neighbour_across_a_long_pause() -> None:
    assert len(cut_all((0, 5), (5.6, 6.0))) == 1
    assert len(cut_all((0, 5), (8, 8.4))) == 2  # but not across three seconds


def test_no_clip_is_longer_than_wanted() -> None:
    rng = np.random.default_rng(0)
    speech, at = [], 0.0
    for _ in range(200):
        length = float(rng.uniform(0.1, 6))
        speech.append((at, at + length))
        at += length + float(rng.uniform(0.03, 0.9))
    parts = cut_all(*speech, end_s=at)
    assert max(part.duration_s for part in parts) <= WANTED.longest_s + 0.2
    assert sum(part.speech_s for part in parts) == pytest.approx(sum(end - start for start, end in speech))
    assert all(one.end_s <= other.start_s for one, other in itertools.pairwise(parts))


def test_speech_without_a_pause_is_cut_where_it_is_quietest_and_says_so() -> None:
    levels = FLAT.copy()
    levels[895:905] = -60
    parts = cut([(0, 18)], levels, wanted=WANTED, end_s=18)
    assert bounds(parts) == [(0, 9.0), (9.0, 18)] or parts[0].end_s == pytest.approx(9.0, abs=0.03)
    assert [part.forced for part in parts] == [True, True]
    assert not any(part.forced for part in cut_all((0, 9)))


def test_nothing_gives_nothing() -> None:
    assert cut_all() == []
