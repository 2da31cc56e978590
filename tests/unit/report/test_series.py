"""Metrics are read as the run wrote them, also while it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ttstrain.report.series import Metrics, Series, align, running_median, thin
from ttstrain.tracking.jsonl import JsonlTracker
from ttstrain.tracking.tracker import RunInfo


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def values(metrics: Metrics, key: str) -> dict[int, float]:
    series = metrics.series[key]
    return dict(zip(series.steps, series.values, strict=True))


def test_steps_that_a_rollback_takes_again_replace_the_earlier_ones(file: Path) -> None:
    file.write_text(lines(*({"step": step, "a": step} for step in (1, 2, 3, 4)), {"step": 3, "a": 30}))
    metrics = Metrics(file)
    metrics.update()
    assert values(metrics, "a") == {1: 1, 2: 2, 3: 30}  # step 4 belongs to weights that are gone
    assert metrics.repeated == 2


def test_only_what_is_new_is_read_and_a_line_may_grow(file: Path) -> None:
    metrics = Metrics(file)
    metrics.update()
    assert metrics.series == {}
    file.write_text(lines({"step": 1, "a": 1.0}, {"step": 2, "a": 2.0}))
    metrics.update()
    file.write_text(lines({"step": 1, "a": 9.0}, {"step": 2, "a": 2.0, "b": 7}, {"step": 3, "a": 3.0}))
    metrics.update()
    assert values(metrics, "a") == {1: 1.0, 2: 2.0, 3: 3.0}  # the first line is not read again
    assert values(metrics, "b") == {2: 7.0}
    assert metrics.repeated == 0


def test_what_the_tracker_writes_piece_by_piece_is_read_piece_by_piece(tmp_path: Path, file: Path) -> None:
    tracker = JsonlTracker(warn=pytest.fail)
    info = RunInfo(
        "r", tmp_path, "id", resumed=False, recipe={}, plan_summary=(), total_steps=9, start_step=0, steps_per_epoch=1
    )
    tracker.start(info)
    metrics, whole = Metrics(file), Metrics(file)
    for step in range(5):
        for key in ("a", "b", "c"):
            tracker.log(step, {key: step + 0.5})
            metrics.update()
    tracker.finish("done")
    whole.update()
    assert {key: values(metrics, key) for key in metrics.series} == {key: values(whole, key) for key in whole.series}
    assert values(metrics, "c") == {step: step + 0.5 for step in range(5)}


def test_a_file_that_a_resume_has_cut_is_read_anew(file: Path) -> None:
    file.write_text(lines(*({"step": step, "a": step} for step in range(9))))
    metrics = Metrics(file)
    metrics.update()
    file.write_text(lines({"step": 0, "a": 0}, {"step": 1, "a": 1}))
    metrics.update()
    assert values(metrics, "a") == {0: 0, 1: 1}


def test_a_torn_line_waits_and_a_foreign_one_is_counted(file: Path) -> None:
    file.write_text(lines({"step": 1, "a": 1}) + "no json\n" + '{"step": 2, "a"')
    metrics = Metrics(file)
    metrics.update()
    assert values(metrics, "a") == {1: 1}
    assert metrics.unreadable == 1


def test_what_is_not_finite_is_a_gap(file: Path) -> None:
    file.write_text('{"step": 1, "a": null}\n{"step": 2, "a": NaN}\n{"step": 3, "a": 1}\n')
    metrics = Metrics(file)
    metrics.update()
    assert np.isnan(list(values(metrics, "a").values())[:2]).all()
    assert metrics.last("a") == 1
    assert metrics.value_at("a", 1) is None


def test_series_are_laid_over_the_same_steps() -> None:
    first, second = Series(), Series()
    first.steps.extend([1, 3])
    first.values.extend([10.0, 30.0])
    second.steps.extend([2, 3])
    second.values.extend([2.0, 3.0])
    steps, table = align([first, second])
    assert steps.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(table, [[10, np.nan, 30], [np.nan, 2, 3]])


def test_thinning_keeps_peaks_of_one_step_and_rare_values() -> None:
    values = np.zeros((2, 50_000))
    values[0, 31_234], values[0, 7] = 9.0, -9.0
    values[1] = np.nan
    values[1, [5, 40_001]] = 1.0
    kept = thin(values, most=800)
    assert len(kept) <= 900
    assert {0, 5, 7, 31_234, 40_001, 49_999} <= set(kept.tolist())
    assert thin(values[:, :700], most=800).tolist() == list(range(700))


def test_the_running_median_is_of_what_came_before() -> None:
    values = np.array([5.0, np.nan, 1.0, 3.0] + [2.0] * 40)
    medians = running_median(values)
    assert medians[:4].tolist() == [5.0, 5.0, 3.0, 3.0]
    assert medians[-1] == 2.0


def test_numbers_that_no_step_can_have_are_no_metrics(file: Path) -> None:
    file.write_text(lines({"step": 10**40, "a": 1}, {"step": -1, "a": 1}, {"step": 1, "a": 2}))
    metrics = Metrics(file)
    metrics.update()
    assert (values(metrics, "a"), metrics.unreadable) == ({1: 2.0}, 2)


def test_steps_without_a_finite_value_are_known(file: Path) -> None:
    file.write_text(lines({"step": 1, "a": 1.0, "b": None}, {"step": 2, "a": None, "b": None}, {"step": 3, "a": 1.0}))
    metrics = Metrics(file)
    metrics.update()
    assert metrics.not_finite() == {"a": [2], "b": [1, 2]}
