"""What a figure means, and how sure a mean over clips is."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest

from ttstrain.judge.figures import MEANINGS, Figures, bootstrap, column, gain, paired, summarise


def test_every_figure_has_a_meaning_and_every_meaning_a_figure() -> None:
    assert [entry.name for entry in MEANINGS] == [entry.name for entry in fields(Figures) if entry.name != "notes"]


def test_a_figure_is_a_number_or_none_never_something_between() -> None:
    with pytest.raises(ValueError, match="`mos` is nan"):
        Figures(mos=math.nan)
    assert Figures(mos=4.0).measured() == {"mos": 4.0}
    assert Figures(mos=4.0).to_json()["cer"] is None


def test_gain_knows_which_direction_is_better() -> None:
    assert gain("voice", before=0.6, after=0.8) == pytest.approx(0.2)
    assert gain("cer", before=0.1, after=0.3) == pytest.approx(-0.2)
    assert gain("pace", before=0.8, after=1.1) == pytest.approx(0.1)
    assert gain("pace", before=1.1, after=0.7) == pytest.approx(-0.2)
    assert gain("f0_hz", before=100, after=200) is None


def test_intervals_hold_the_true_mean_as_often_as_they_say() -> None:
    """Of samples of 8 clips, whose plain percentile interval holds the mean in some 88 % only."""
    draws = np.random.default_rng(1).normal(0.3, 1.0, size=(300, 8))
    held = [bootstrap(list(draw)) for draw in draws]
    share = np.mean([interval is not None and interval.low <= 0.3 <= interval.high for interval in held])
    assert 0.92 <= share <= 0.98


def test_the_interval_of_two_clips_holds_the_true_mean_too() -> None:
    draws = np.random.default_rng(1).normal(0.3, 1.0, size=(1000, 2))
    held = [bootstrap(list(draw)) for draw in draws]
    share = np.mean([interval is not None and interval.low <= 0.3 <= interval.high for interval in held])
    assert 0.935 <= share <= 0.965


def test_a_paired_difference_sees_what_two_means_hide() -> None:
    clips = np.random.default_rng(2).normal(0.7, 0.2, size=12)  # clips differ much, the sides by 0.02
    better = paired(list(clips + 0.02 + np.tile([0.005, -0.005], 6)), list(clips))
    assert better is not None
    assert (better.mean, better.num_clips) == (pytest.approx(0.02), 12)
    assert not better.holds_zero
    ours, theirs = bootstrap(list(clips + 0.02)), bootstrap(list(clips))
    assert ours is not None and theirs is not None
    assert ours.low < theirs.high


def test_a_difference_by_chance_is_none() -> None:
    noise = np.random.default_rng(3).normal(size=(2, 20))
    difference = paired(list(noise[0]), list(noise[1]))
    assert difference is not None and difference.holds_zero


def test_clips_that_one_side_lacks_are_left_out() -> None:
    difference = paired([1.0, None, 3.0, 2.0], [0.0, 5.0, None, 1.0])
    assert difference is not None
    assert (difference.mean, difference.num_clips) == (1.0, 2)
    with pytest.raises(ValueError, match="longer"):
        paired([1.0], [1.0, 2.0])


def test_one_clip_says_nothing_of_the_spread_and_none_say_nothing() -> None:
    alone = bootstrap([0.4])
    assert alone is not None and alone.holds_zero
    assert alone.to_json() == {"mean": 0.4, "low": None, "high": None, "clips": 1}
    assert bootstrap([None, None]) is None


def test_the_same_values_give_the_same_interval() -> None:
    assert bootstrap([0.1, 0.5, 0.7]) == bootstrap([0.1, 0.5, 0.7])


def test_a_summary_holds_what_was_measured() -> None:
    clips = [Figures(voice=0.8), Figures(voice=0.6, mos=3.0)]
    assert {name: interval.mean for name, interval in summarise(clips).items()} == {"voice": 0.7, "mos": 3.0}
    assert column(clips, "mos") == [None, 3.0]
    with pytest.raises(KeyError):
        column(clips, "loss")
