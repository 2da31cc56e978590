"""What follows a step, situation by situation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ttstrain.train.decide import After, Found, Place, Requests, decide

PLAN: Any = SimpleNamespace(
    recipe=SimpleNamespace(train=SimpleNamespace(log_every=2)),
    eval_every=4,
    sample_every=8,
    snapshot_every=3,
    save_every=10,
)
NEVER: Any = SimpleNamespace(
    recipe=SimpleNamespace(train=SimpleNamespace(log_every=1000)),
    eval_every=None,
    sample_every=None,
    snapshot_every=1000,
    save_every=1000,
)
MID = Place(7)  # nothing is due
ENDS_STAGE = Place(7, ends_stage=True, in_last_stage=False)
IN_FIRST_STAGE = Place(7, in_last_stage=False)
LAST = Place(7, last=True)
EVERYTHING = {"log", "evaluate", "speak", "next_stage", "snapshot", "save"}


def named(after: After) -> set[str]:
    return {name for name in EVERYTHING if getattr(after, name)}


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (1, set()),
        (2, {"log"}),
        (3, {"snapshot"}),
        (4, {"log", "evaluate"}),
        (8, {"log", "evaluate", "speak"}),
        (10, {"log", "save"}),
        (120, {"log", "evaluate", "speak", "snapshot", "save"}),
    ],
)
def test_what_is_due_by_the_plan(step: int, expected: set[str]) -> None:
    after = decide(Place(step), PLAN, Requests())
    assert (named(after), after.leave) == (expected, None)


@pytest.mark.parametrize(
    ("place", "requests", "found", "expected", "leave"),
    [
        # the ends of a run and of a stage
        (LAST, Requests(), None, {"log", "evaluate", "speak", "save"}, "done"),
        (ENDS_STAGE, Requests(), None, {"evaluate", "speak", "next_stage", "snapshot", "save"}, None),
        # requests: a signal, a STOP file, a SAVE file
        (MID, Requests("preempted"), None, {"save"}, "preempted"),
        (MID, Requests("interrupted"), None, {"save"}, "interrupted"),
        (MID, Requests("stop"), None, {"save"}, "stopped"),
        (MID, Requests(save=True), None, {"save"}, None),
        (ENDS_STAGE, Requests("preempted"), None, {"evaluate", "speak", "next_stage", "snapshot", "save"}, "preempted"),
        # what an evaluation shows
        (MID, Requests(), Found(), set(), None),
        (MID, Requests(), Found(improved=True), {"save"}, None),
        (MID, Requests(), Found(out_of_patience=True), {"save"}, "early stop"),
        (IN_FIRST_STAGE, Requests(), Found(out_of_patience=True), {"next_stage", "snapshot", "save"}, None),
        # several at once
        (LAST, Requests("preempted"), None, {"log", "evaluate", "speak", "save"}, "done"),
        (LAST, Requests(), Found(out_of_patience=True), {"log", "evaluate", "speak", "save"}, "done"),
        (MID, Requests("stop"), Found(out_of_patience=True), {"save"}, "stopped"),
        (MID, Requests("preempted"), Found(out_of_patience=True), {"save"}, "early stop"),
        (
            IN_FIRST_STAGE,
            Requests("interrupted"),
            Found(out_of_patience=True),
            {"next_stage", "snapshot", "save"},
            "interrupted",
        ),
    ],
)
def test_what_follows(
    place: Place, requests: Requests, found: Found | None, expected: set[str], leave: str | None
) -> None:
    after = decide(place, NEVER, requests, found)
    assert (named(after), after.leave) == (expected, leave)


def test_whoever_leaves_saves() -> None:
    for leave in ("preempted", "interrupted", "stop"):
        assert decide(MID, NEVER, Requests(leave)).save


@pytest.mark.parametrize(
    ("requests", "hurried"), [(Requests("preempted"), True), (Requests("interrupted"), True), (Requests("stop"), False)]
)
def test_signals_are_in_a_hurry_and_files_are_not(requests: Requests, hurried: bool) -> None:
    assert requests.hurried is hurried
