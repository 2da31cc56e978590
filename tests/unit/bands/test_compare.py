"""Where a run lies beside three reference runs, and what is said to be the cause."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ttstrain.bands.band import Band, Curves, read_band, write_band
from ttstrain.bands.causes import differences, signs, told_even_inside
from ttstrain.bands.compare import compare, edges, looks, worst
from ttstrain.bands.facts import Facts, why_not_comparable
from ttstrain.errors import RecipeError

LOSS, NORM, HELD_OUT, LR = "train/loss/model", "optim/grad_norm/model", "eval/loss/total", "optim/lr/model/default"
FACTS = Facts(
    task="a",
    base="1234",
    clips=20,
    ids="i",
    texts="t",
    pairs="p",
    sounds="s",
    batch={"data.batch_frames": 1600, "processes": 1},
    ways={"lora": False},
    trained=1000,
    front_end={"vocab": "v", "library": "1"},
    settings={"optim.weight_decay": 0.01, "model.vocab": "one"},
)


def curves(seed: int, *, loss: float = 1.0, norm: float = 1.0, start: float = 1.0) -> dict[str, dict[int, float]]:
    """A loss that falls by a third over 50 steps, with noise of 20 % from step to step."""
    noise = random.Random(seed)
    steps = range(1, 51)
    return {
        LOSS: {step: loss * (1.5 - step / 100) * math.exp(noise.gauss(0, 0.2)) for step in steps},
        NORM: {step: norm * math.exp(noise.gauss(0, 0.3)) for step in steps},
        HELD_OUT: {0: start * (1.4 + 0.02 * noise.random())},
    }


LRS = {LR: dict.fromkeys(range(1, 51), 0.001)}
BAND = Band("small", 50, FACTS, [Curves(seed, curves(seed)) for seed in (0, 1, 2)], LRS)


def place(points: Mapping[str, Mapping[int, float]], *, seed: int = 9, upto: int = 50) -> str:
    found = worst(compare(points, BAND, seed=seed, upto=upto))
    return "inside" if found is None else f"{found.place} {found.key}"


def test_other_seeds_lie_inside() -> None:
    """Thirty healthy runs, at every look."""
    alarms = [
        (seed, upto, where)
        for seed in range(100, 130)
        for upto in (0, *looks(50))
        if (where := place(curves(seed), upto=upto)) != "inside"
    ]
    assert alarms == []


def test_higher_and_lower_losses_are_found_and_a_loss_counts_before_a_gradient_norm() -> None:
    assert place(curves(5, loss=1.6)) == f"above {LOSS}"
    assert place(curves(5, loss=0.6, norm=9.0)) == f"below {LOSS}"
    assert place(curves(5, norm=3.0)) == f"above {NORM}"
    assert place(curves(5, norm=0.3)) == f"below {NORM}"


@pytest.mark.parametrize("key", [LOSS, NORM, HELD_OUT])
@pytest.mark.parametrize("seed", [0, 9])
def test_the_edges_that_are_drawn_are_those_that_are_compared_with(key: str, seed: int) -> None:
    drawn = edges(key, BAND, seed=seed)
    assert drawn[-1].last == (0 if key == HELD_OUT else 50)
    for one in drawn:
        for value, wanted in ((one.high, 1.0), (one.low, -1.0), (math.sqrt(one.low * one.high), 0.0)):
            points = {key: dict.fromkeys(range(one.first, one.last + 1), value)}
            (found,) = compare(points, BAND, seed=seed, upto=one.last)
            assert found.position == pytest.approx(wanted, abs=1e-9)


def test_a_metric_without_a_band_has_no_edges() -> None:
    assert edges("eval/loss/unknown", BAND, seed=0) == []


def test_a_loss_that_only_leaves_late_is_inside_before() -> None:
    late = curves(5)
    for step in range(26, 51):
        late[LOSS][step] *= 2
    assert place(late, upto=25) == "inside"
    assert place(late, upto=50) == f"above {LOSS}"


def test_the_first_evaluation_is_compared_closely_where_the_seed_is_known() -> None:
    own = curves(1)
    own[HELD_OUT][0] *= 1.03
    assert place(own, seed=1, upto=0) == f"above {HELD_OUT}"
    assert place(own, seed=9, upto=0) == "inside"
    assert place(curves(1), seed=1, upto=0) == "inside"


def test_what_was_hardly_logged_is_not_compared() -> None:
    rare = {key: {step: value for step, value in points.items() if step % 10 == 0} for key, points in curves(5).items()}
    assert {finding.key for finding in compare(rare, BAND, seed=9, upto=50)} == {HELD_OUT}


def test_a_loss_that_may_be_negative_has_no_band() -> None:
    runs = [Curves(run.seed, {**run.points, "train/loss/signed": {1: -0.1}}) for run in BAND.runs]
    findings = compare({"train/loss/signed": {1: 5.0}}, replace(BAND, runs=runs), seed=9, upto=50)
    assert findings == []


def test_a_loss_that_is_not_finite_lies_above() -> None:
    broken = curves(5)
    broken[LOSS][7] = math.nan
    assert place(broken, upto=10) == f"above {LOSS}"


def test_a_short_run_is_looked_at_after_its_last_step() -> None:
    assert looks(4) == [4]
    assert looks(10) == [10]
    assert looks(30) == [10, 25, 30]
    assert looks(1200) == [10, 25, 50]


# ---------------------------------------------------------------- causes


def lrs(factor: float) -> dict[str, dict[int, float]]:
    return {LR: dict.fromkeys(range(1, 51), factor * 0.001)}


@pytest.mark.parametrize(
    ("changed", "own_lrs", "said"),
    [
        ({}, lrs(10), "the LR of `model/default` is 10 times that of the reference runs"),
        ({}, lrs(0.1), "the LR of `model/default` is a 10th of that of the reference runs"),
        ({}, lrs(0), "group `model/default` is not trained"),
        ({"trained": 100}, lrs(1), "parameters are frozen: 100 are trained"),
        ({"pairs": "x"}, lrs(1), "the texts are shuffled"),
        ({"pairs": "x", "texts": "y"}, lrs(1), "some clips have other texts"),
        ({"sounds": "x"}, lrs(1), "the recordings are other files"),
        ({"front_end": {"vocab": "w", "library": "1"}}, lrs(1), "the vocabulary is another"),
        (
            {"settings": {"optim.weight_decay": 0.1, "model.vocab": "one"}},
            lrs(1),
            "`optim.weight_decay` is 0.1, not 0.01",
        ),
    ],
)
def test_what_differs_from_the_reference_runs_is_named_first(
    changed: dict[str, Any], own_lrs: dict[str, dict[int, float]], said: str
) -> None:
    found = differences(replace(FACTS, **changed), BAND, own_lrs)
    assert len(found) == 1
    assert said in found[0]
    assert (told_even_inside(replace(FACTS, **changed), BAND, own_lrs) == found) == ("settings" not in changed)


def test_runs_that_differ_by_their_seed_differ_in_nothing() -> None:
    assert differences(FACTS, BAND, LRS) == []


@pytest.mark.parametrize(
    ("points", "seed", "upto", "said"),
    [
        (curves(1, start=1.1), 1, 0, "vocabulary"),
        (curves(1, start=20.0), 1, 0, "silent"),
        (curves(5, loss=0.3), 9, 50, "silent"),
        (curves(5, loss=1.6, norm=0.2), 9, 50, "frozen"),
        (curves(5, loss=1.6), 9, 50, "an LR that is too high"),
        (curves(5, norm=0.2), 9, 50, "frozen"),
        (curves(5, norm=5.0), 9, 50, "an LR that is too high"),
    ],
)
def test_the_curves_point_to_a_cause_where_nothing_is_known_to_differ(
    points: dict[str, dict[int, float]], seed: int, upto: int, said: str
) -> None:
    (cause,) = signs(compare(points, BAND, seed=seed, upto=upto))
    assert said in cause


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"ids": "x", "clips": 7}, "other data (7 clips instead of 20)"),
        ({"ids": "x"}, "other data (20 other clips)"),
        ({"base": "5678"}, "another base"),
        ({"base": ""}, "starts from scratch"),
        ({"ways": {"lora": True}}, "`lora`"),
        ({"batch": {"data.batch_frames": 800, "processes": 1}}, "`data.batch_frames` is 800, not 1600"),
        ({"trained": 3}, ""),
    ],
)
def test_a_run_of_other_data_base_or_batch_is_not_compared(changed: dict[str, Any], said: str) -> None:
    why = why_not_comparable(replace(FACTS, **changed), FACTS)
    assert said in why
    assert bool(why) == bool(said)


def test_a_band_is_read_as_it_was_written_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "small.json"
    write_band(path, BAND, made_with={"torch": "2"})
    again = read_band(path)
    assert (again.recipe, again.steps, again.facts, again.lrs) == (BAND.recipe, BAND.steps, BAND.facts, BAND.lrs)
    for mine, theirs in zip(again.runs, BAND.runs, strict=True):
        for key, points in theirs.points.items():
            assert mine.points[key] == pytest.approx(points, rel=1e-4)
    path.write_text(path.read_text(encoding="utf-8").replace('"task"', '"tusk"'), encoding="utf-8")
    with pytest.raises(RecipeError, match="cannot be read"):
        read_band(path)
