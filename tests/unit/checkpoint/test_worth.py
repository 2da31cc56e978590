"""A run that never beat what it started from says so wherever its weights are used."""

from __future__ import annotations

import pytest

from ttstrain.checkpoint.meta import Meta
from ttstrain.checkpoint.worth import never_better, trained_schedule_free

METRIC = "eval/loss/total"


def meta(step: int, **metrics: float) -> Meta:
    return Meta(family="flow", task="flow", model={}, recipe="r", step=step, metrics={METRIC: 9.5} | metrics)


def test_a_run_that_was_never_better_is_warned_of() -> None:
    warning = never_better(meta(30), {"best": {"metric": METRIC, "value": 5.25, "step": 0}})
    assert warning is not None
    assert warning.startswith("WARNING: up to step 30 this run was never better than its base")
    assert "(`eval/loss/total` was 5.2500 before the first step and is 9.5000 at step 30)" in warning


@pytest.mark.parametrize(
    "best", [None, {}, {"metric": METRIC, "value": 4.0, "step": 20}, {"metric": None, "step": None}]
)
def test_nothing_is_said_where_it_was_better_or_nothing_was_measured(best: object) -> None:
    assert never_better(meta(30), {} if best is None else {"best": best}) is None
    assert never_better(meta(0), {"best": {"metric": METRIC, "value": 4.0, "step": 0}}) is None  # nothing trained yet


def test_weights_of_a_schedule_free_optimizer_are_known_by_its_state() -> None:
    assert trained_schedule_free({"optimizers": {"model": {"a": {}, "b": {"z": None, "exp_avg_sq": None}}}})
    assert not trained_schedule_free({"optimizers": {"model": {"a": {"exp_avg": None}}}})
    assert not trained_schedule_free({})
