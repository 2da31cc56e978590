"""A run stops when its evaluations no longer get better."""

from __future__ import annotations

import json
import math

import pytest

from ttstrain.errors import RecipeError
from ttstrain.recipe import schema as recipe
from ttstrain.train.early_stop import EarlyStop

METRIC = "eval/loss/total"


def make(*, patience: int = 2, min_delta: float = 0.0) -> EarlyStop:
    return EarlyStop(recipe.EarlyStop(metric=METRIC, patience=patience, min_delta=min_delta))


def stops_at(stop: EarlyStop, losses: list[float]) -> int | None:
    return next((index for index, loss in enumerate(losses) if stop.update({METRIC: loss, "other": 0.0})), None)


@pytest.mark.parametrize(
    ("losses", "index"),
    [
        ([3.0, 2.0, 1.0, 0.5], None),
        ([3.0, 4.0, 5.0], 2),
        ([3.0, 3.0, 3.0], 2),  # standing still is no improvement
        ([3.0, 4.0, 2.0, 4.0, 2.5], 4),  # an improvement counts anew; worse than the best is not one
        ([math.nan, math.nan], 1),
        ([3.0, math.nan, 2.0, -math.inf], None),
    ],
)
def test_it_stops_after_so_many_evaluations_without_a_new_best(losses: list[float], index: int | None) -> None:
    assert stops_at(make(), losses) == index


def test_improvements_below_the_least_difference_do_not_count() -> None:
    assert stops_at(make(min_delta=0.1), [1.0, 0.95, 0.91]) == 2
    assert stops_at(make(min_delta=0.1), [1.0, 0.95, 0.89, 0.85, 0.80]) == 4  # measured from the best, not the last


@pytest.mark.parametrize("cut", range(6))
def test_a_resumed_count_stops_where_an_uninterrupted_one_does(cut: int) -> None:
    losses = [3.0, 2.0, 2.5, 1.0, 1.5, 1.5]
    before = make()
    for loss in losses[:cut]:
        assert not before.update({METRIC: loss})
    after = make()
    after.load_state_dict(json.loads(json.dumps(before.state_dict(), allow_nan=False)))
    assert stops_at(after, losses[cut:]) == 5 - cut


def test_a_metric_that_no_evaluation_has_is_refused_by_name() -> None:
    with pytest.raises(RecipeError, match="eval/loss/total") as caught:
        make().update({"eval/loss/t0": 1.0, "eval/loss/totals": 1.0})
    assert caught.value.hint == "did you mean `eval/loss/totals`?"
    with pytest.raises(RecipeError) as caught:
        make().update({})
    assert "data.holdout" in str(caught.value.hint)


def test_by_the_judge_the_score_is_to_rise() -> None:
    stop = EarlyStop(recipe.EarlyStop(metric="judge", patience=2))
    scores = [0.2, 0.5, 0.4, 0.6, 0.6, 0.5]
    assert [stop.update({"judge/chosen_score": score}) for score in scores] == [False] * 5 + [True]
    again = EarlyStop(recipe.EarlyStop(metric="judge", patience=2))
    again.load_state_dict(json.loads(json.dumps(stop.state_dict())))
    assert again.update({"judge/chosen_score": 0.59}) and not again.update({"judge/chosen_score": 0.61})
