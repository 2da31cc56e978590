"""What the judge's verdicts on a run's steps say together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ttstrain.checkpoint import judged
from ttstrain.checkpoint.judged import Judged, JudgedStep, course
from ttstrain.tracking.judged import read_verdicts


def judged_steps(*heard: tuple[float | None, str]) -> list[JudgedStep]:
    """Invent steps that are closer to the voice than the base by so much, within 0.03."""
    steps = []
    for number, (closer, outcome) in enumerate(heard, start=1):
        voice = {} if closer is None else {"voice": {"mean": closer, "low": closer - 0.03, "high": closer + 0.03}}
        sides = {"online": {"against_base": voice}}
        steps.append(JudgedStep(number * 1000, "online", outcome, f"said of {number}", 0.5, sides))
    return steps


def test_a_run_that_got_worse_after_its_best_step_was_too_long() -> None:
    said = course(judged_steps((0.17, "better"), (0.15, "better"), (0.11, "better")))
    assert said is not None
    assert said.startswith("step 3,000 is worse than step 1,000 (farther from the voice by 0.06): the run was too long")


def test_words_that_were_lost_after_the_best_step_are_named() -> None:
    said = course(judged_steps((0.1, "better"), (-0.2, "worse")))
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
        [(0.1, "better")],
        [(-0.1, "worse")],
        [(0.17, "better"), (0.13, "better")],
        [(0.01, "same"), (0.1, "better")],
        [(0.1, "unusable"), (0.0, "unusable")],
        [(-0.1, "worse"), (0.1, "better")],
        [(0.1, "better"), (None, "unknown")],
        [(None, "usable"), (None, "usable")],
    ],
)
def test_of_a_healthy_course_nothing_is_said(heard: Sequence[tuple[float | None, str]]) -> None:
    assert course(judged_steps(*heard)) is None


def test_the_end_of_a_run_says_it(tmp_path: Path) -> None:
    judged.write(tmp_path, Judged(judged_steps((0.1, "better"), (-0.2, "worse"))))
    assert "the run was too long" in " ".join(" ".join(read_verdicts(tmp_path).lines).split())


def test_the_end_of_a_run_says_how_many_sentences_were_trained_on(tmp_path: Path) -> None:
    (step,) = judged_steps((0.1, "better"))
    judged.write(tmp_path, Judged([replace(step, sentences=8, trained=6)]))
    assert "6 of the 8 sentences were trained on; new ones are harder" in read_verdicts(tmp_path).sentences
    judged.write(tmp_path, Judged([replace(step, sentences=8)]))
    assert not any("trained on" in sentence for sentence in read_verdicts(tmp_path).sentences)


def test_a_difference_within_the_interval_is_none() -> None:
    best, last = judged_steps((0.17, "better"), (0.11, "better"))
    last.sides["online"]["against_base"]["voice"]["high"] = 0.18
    assert course([best, last]) is None
    last.sides["online"]["against_base"]["voice"]["high"] = None  # unbounded, of one sentence
    assert course([best, last]) is None


def test_a_choice_of_the_other_weights_is_no_loss() -> None:
    """At the last step the slow EMA is chosen, which is far behind the raw weights of both steps."""
    best, last = judged_steps((0.17, "better"), (0.18, "better"))
    slow = {"against_base": {"voice": {"mean": 0.0, "low": -0.01, "high": 0.01}}}
    assert course([best, replace(last, weights="ema", sides={**last.sides, "ema": slow})]) is None
