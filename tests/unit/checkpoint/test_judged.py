"""What the judge's verdicts on a run's steps say together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ttstrain.checkpoint import judged
from ttstrain.checkpoint.judged import Judged, JudgedStep, course
from ttstrain.tracking.judged import read_verdicts


def judged_steps(*heard: tuple[float | None, str]) -> list[JudgedStep]:
    return [
        JudgedStep((number + 1) * 1000, "online", outcome, f"said of {number + 1}", score, {})
        for number, (score, outcome) in enumerate(heard)
    ]


def test_a_run_that_got_worse_after_its_best_step_was_too_long() -> None:
    said = course(judged_steps((0.7, "better"), (0.68, "better"), (0.64, "better")))
    assert said is not None
    assert said.startswith("step 3,000 is worse than step 1,000 (farther from the voice by 0.06): the run was too long")


def test_words_that_were_lost_after_the_best_step_are_named() -> None:
    said = course(judged_steps((0.7, "better"), (-0.2, "worse")))
    assert said is not None
    assert "step 2,000 is worse than step 1,000 (said of 2)" in said


def test_a_run_that_was_worse_all_along_learnt_too_fast() -> None:
    said = course(judged_steps((-0.5, "worse"), (-0.4, "worse")))
    assert said is not None
    assert said.startswith("worse than the base at every listening from step 1,000 on: lower the learning rate")


@pytest.mark.parametrize(
    "heard",
    [
        [],
        [(0.7, "better")],
        [(-0.3, "worse")],
        [(0.7, "better"), (0.66, "better")],
        [(0.6, "same"), (0.7, "better")],
        [(-0.4, "unusable"), (-0.5, "unusable")],
        [(-0.4, "worse"), (0.7, "better")],
        [(0.7, "better"), (None, "unknown")],
    ],
)
def test_of_a_healthy_course_nothing_is_said(heard: Sequence[tuple[float | None, str]]) -> None:
    assert course(judged_steps(*heard)) is None


def test_the_end_of_a_run_says_it(tmp_path: Path) -> None:
    judged.write(tmp_path, Judged(judged_steps((0.7, "better"), (-0.2, "worse"))))
    assert "the run was too long" in " ".join(" ".join(read_verdicts(tmp_path).lines).split())
