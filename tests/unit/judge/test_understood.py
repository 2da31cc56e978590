"""How sure a few sentences make it that words are understood, held to simulations."""

from __future__ import annotations

import numpy as np
import pytest

from ttstrain.judge.understood import Count, share_interval


@pytest.mark.parametrize(("found", "of"), [(0, 4), (3, 4), (4, 8), (6, 8), (12, 16)])
def test_the_probability_is_that_of_shares_drawn_at_random_which_gave_the_same_count(found: int, of: int) -> None:
    random = np.random.default_rng(0)
    shares = random.random(400_000)
    alike = shares[random.binomial(of, shares) == found]
    assert Count(found, of).misheard == pytest.approx((alike < 0.5).mean(), abs=0.01)


def test_eight_sentences_are_sure_with_seven_and_with_one() -> None:
    said = [Count(found, 8).understanding for found in range(9)]
    assert said == ["not understood"] * 2 + ["not sure"] * 5 + ["understood"] * 2
    assert Count(11, 16).understanding == "not sure" and Count(12, 16).understanding == "understood"


def test_four_sentences_are_the_fewest_that_can_be_sure() -> None:
    assert Count(4, 4).understanding == "understood" and Count(3, 4).understanding == "not sure"
    assert {Count(found, 3).understanding for found in range(4)} == {"too few sentences"}


def test_intervals_of_shares_leave_out_a_fortieth_on_either_side() -> None:
    """Clopper and Pearson's definition: at either end the count seen, or one farther off, has a chance of 2.5 %."""
    low, high = share_interval(3, 8, level=0.95)
    draws = np.random.default_rng(0).random((200_000, 8))
    assert ((draws < low).sum(1) >= 3).mean() == pytest.approx(0.025, abs=0.002)
    assert ((draws < high).sum(1) <= 3).mean() == pytest.approx(0.025, abs=0.002)
    assert share_interval(8, 8, level=0.95) == pytest.approx((0.025 ** (1 / 8), 1.0))
    assert share_interval(0, 8, level=0.95) == pytest.approx((0.0, 1 - 0.025 ** (1 / 8)))
