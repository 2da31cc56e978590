"""What a run says, logs and writes of its place beside the reference runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from ttstrain.bands import tracker as module
from ttstrain.bands.band import Band, Curves
from ttstrain.bands.facts import Facts
from ttstrain.bands.outcome import FILE_NAME, Outcome, read_outcome, write_outcome
from ttstrain.bands.tracker import BandTracker
from ttstrain.report.events import Events
from ttstrain.report.series import Metrics
from ttstrain.report.verdict import find_verdict
from ttstrain.tracking.tracker import RunInfo, Tracker, Trackers

LOSS, LR = "train/loss/model", "optim/lr/model/default"
FACTS = Facts("a", "", 3, "i", "t", "p", "s", {}, {}, 10, {}, {})
STEPS = range(1, 51)
BAND = Band(
    "small",
    50,
    FACTS,
    [Curves(seed, {LOSS: dict.fromkeys(STEPS, 2.0 + 0.1 * seed)}) for seed in (0, 1, 2)],
    {LR: dict.fromkeys(STEPS, 0.001)},
)


class Seen(Tracker):
    """Keeps all that other trackers get."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.rows.append((step, dict(values)))

    def note(self, message: str) -> None:
        self.notes.append(message)

    def warn(self, message: str, *, shown: bool = False) -> None:
        self.warnings.append(message)


def begin(folder: Path, *, resumed_at: int | None = None, steps: int = 300) -> tuple[Trackers, Seen]:
    seen, trackers = Seen(), Trackers()
    trackers += [seen, BandTracker(trackers)]
    recipe = {"train": {"seed": 7}}
    trackers.start(
        RunInfo("r", folder, "id", resumed_at is not None, recipe, (), steps, resumed_at or 0, steps_per_epoch=9.0)
    )
    return trackers, seen


@pytest.fixture(autouse=True)
def _shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_band", lambda recipe: BAND if recipe == "small" else None)


def train(trackers: Trackers, steps: range, *, loss: float, lr: float = 1e-3) -> None:
    for step in steps:
        trackers.log(step, {LOSS: loss, LR: lr})


def positions(seen: Seen) -> dict[int, dict[str, float]]:
    rows: dict[int, dict[str, float]] = {}
    for step, values in seen.rows:
        rows.setdefault(step, {}).update({key: value for key, value in values.items() if key.startswith("band/")})
    return {step: values for step, values in rows.items() if values}


def test_a_healthy_run_is_called_inside_once_at_step_50(tmp_path: Path) -> None:
    write_outcome(tmp_path, Outcome("small", FACTS))
    trackers, seen = begin(tmp_path)
    train(trackers, range(1, 80), loss=2.1)
    (note,) = seen.notes
    assert note.startswith("inside the band: up to step 50")
    assert seen.warnings == []
    found = positions(seen)
    assert list(found) == [10, 25, 50]
    assert found[50]["band/verdict"] == 0.0
    assert all(abs(values["band/train/loss/model"]) < 0.2 for values in found.values())
    assert read_outcome(tmp_path) == Outcome("small", FACTS, "", "inside", 50, (note,))


def test_a_run_outside_is_told_as_soon_as_it_is_known_with_the_likely_cause(tmp_path: Path) -> None:
    write_outcome(tmp_path, Outcome("small", FACTS))
    trackers, seen = begin(tmp_path)
    train(trackers, range(1, 60), loss=4.0, lr=1e-2)
    (warning,) = seen.warnings
    assert warning.startswith(
        "above the band: the training loss `model` is 4 over steps 1 to 10, and 2 to 2.2 in the 3"
    )
    assert "Likely cause: the LR of `model/default` is 10 times" in warning
    assert positions(seen)[10]["band/verdict"] == 1.0
    assert list(positions(seen)) == [10]
    trackers.finish("done")
    page = find_verdict(tmp_path, Metrics(tmp_path / "metrics.jsonl"), Events())
    assert any(sentence.startswith("Above the band") and "10 times" in sentence for sentence in page.sentences)


def test_a_run_inside_with_shuffled_texts_says_so(tmp_path: Path) -> None:
    write_outcome(tmp_path, Outcome("small", replace(FACTS, pairs="x")))
    trackers, seen = begin(tmp_path)
    train(trackers, range(1, 51), loss=2.1)
    (note,) = seen.notes
    assert "what differs from them: the texts are shuffled" in note


def test_a_run_that_cannot_be_compared_says_why(tmp_path: Path) -> None:
    write_outcome(tmp_path, Outcome("small", FACTS, why_not="it starts from another base"))
    trackers, seen = begin(tmp_path)
    train(trackers, range(1, 60), loss=9.0)
    assert seen.notes == ["not compared with the reference runs of `small`: it starts from another base"]
    assert positions(seen) == {}
    page = find_verdict(tmp_path, Metrics(tmp_path / "metrics.jsonl"), Events())
    assert any("another base" in sentence for sentence in page.sentences)


def test_a_run_whose_recipe_has_no_band_says_nothing(tmp_path: Path) -> None:
    trackers, seen = begin(tmp_path)
    train(trackers, range(1, 60), loss=9.0)
    assert (seen.notes, seen.warnings, positions(seen)) == ([], [], {})
    assert not (tmp_path / FILE_NAME).exists()


def test_a_resumed_run_counts_the_steps_before(tmp_path: Path) -> None:
    write_outcome(tmp_path, Outcome("small", FACTS))
    rows = [{"step": step, LOSS: 2.1, LR: 1e-3} for step in range(1, 41)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    trackers, seen = begin(tmp_path, resumed_at=40)
    train(trackers, range(41, 51), loss=2.1)
    assert seen.notes[0].startswith("inside the band: up to step 50")
    again, seen = begin(tmp_path, resumed_at=50)
    train(again, range(51, 60), loss=9.0)
    assert (seen.notes, seen.warnings) == ([], [])


def test_a_short_run_is_compared_after_its_last_step(tmp_path: Path) -> None:
    write_outcome(tmp_path, Outcome("small", FACTS))
    trackers, seen = begin(tmp_path, steps=12)
    train(trackers, range(1, 13), loss=2.1)
    assert positions(seen)[12] == {"band/verdict": 0.0}  # of steps 11 to 25 too few are there
    assert seen.notes[0].startswith("inside the band: up to step 12")


def test_a_run_that_logs_every_second_step_is_compared_all_the_same(tmp_path: Path) -> None:
    write_outcome(tmp_path, Outcome("small", FACTS))
    trackers, seen = begin(tmp_path)
    train(trackers, range(3, 80, 2), loss=2.1)
    assert seen.notes[0].startswith("inside the band: up to step 50")
    assert list(positions(seen)) == [11, 25, 51]


def test_a_run_that_hardly_logs_is_not_called_inside(tmp_path: Path) -> None:
    write_outcome(tmp_path, Outcome("small", FACTS))
    trackers, seen = begin(tmp_path)
    train(trackers, range(7, 80, 7), loss=9.0)
    assert seen.notes == [f"not compared with the reference runs of `small`: {module.TOO_FEW}"]
    outcome = read_outcome(tmp_path)
    assert outcome is not None
    assert (outcome.why_not, outcome.place) == (module.TOO_FEW, None)


def test_a_damaged_file_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text("{", encoding="utf-8")
    trackers, seen = begin(tmp_path)
    train(trackers, range(1, 60), loss=2.1)
    assert "not compared with reference runs" in seen.notes[0]
