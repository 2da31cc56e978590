"""The dial: the knee by the rule, what is undone of the forgetting, and its words and table."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from ttstrain.cli.dial import table
from ttstrain.contract.data import Clip
from ttstrain.errors import RecipeError
from ttstrain.judge.dial import GRID, Dial, read_dial, read_grid, to_json
from ttstrain.judge.evaluate import BASE, Contestant, Evaluation
from ttstrain.judge.figures import Figures
from ttstrain.judge.retention import Retention
from ttstrain.judge.rule import Side
from ttstrain.judge.verdict import decide

SENTENCES = 8
VOICES = {0.0: 0.60, 0.5: 0.76, 0.7: 0.785, 1.0: 0.80}  # 2 % of 0.80 is 0.016
LOSSES = {0.0: 1.00, 0.5: 1.02, 0.7: 1.04, 1.0: 1.10}


def key_of(blend: float) -> str:
    return BASE if blend == 0 else f"blend-{blend:g}"


@dataclass
class Heard:
    """Means of each blend; sentences and clips scatter around them in the same way."""

    voices: dict[float, float] = field(default_factory=lambda: dict(VOICES))
    losses: dict[float, float] | None = field(default_factory=lambda: dict(LOSSES))
    slow: float | None = None  # a blend that takes twice the time

    def dial(self) -> Dial:
        contestants = [Contestant(key_of(one), f"blend {one:g}", f"{one:g}", "run", blend=one) for one in self.voices]
        figures = {
            key_of(one): [
                Figures(voice=voice + 0.002 * (i % 3 - 1), pace=2.0 if one == self.slow else 1.0)
                for i in range(SENTENCES)
            ]
            for one, voice in self.voices.items()
        }
        sides = [Side(one.key, one.title, figures[one.key]) for one in contestants]
        verdict = decide(sides[1:], sides[0])
        retained = None
        if self.losses is not None:
            clips: list[Clip] = []
            losses: dict[str, list[float | None]] = {
                key_of(one): [loss + 0.3 * i + 0.001 * (i % 2) * one for i in range(6)]
                for one, loss in self.losses.items()
            }
            retained = Retention(clips, "others", [], losses)
        return read_dial(Evaluation([], contestants, figures, verdict, []), retained, spec="runs/my run")


def test_the_smallest_blend_within_two_percent_is_the_knee() -> None:
    dial = Heard().dial()
    assert dial.knee is not None
    assert dial.knee.blend == 0.7
    assert dial.knee.undone == pytest.approx(0.6, abs=0.01)  # of a rise of 0.10 it has 0.04
    assert dial.words == "blend 0.7 undoes 60 % of the forgetting and keeps 98 % of the likeness"
    assert dial.command == "ttstrain export 'runs/my run' -o OUT --blend 0.7"
    assert [round(mark.undone or 0, 1) for mark in dial.marks] == [1.0, 0.8, 0.6, 0.0]


def test_where_every_blend_loses_the_voice_no_fault_is_named() -> None:
    dial = Heard(voices={**VOICES, 0.7: 0.7}).dial()
    assert dial.words == "every smaller blend loses more than 2 % of the likeness: use the fine-tune"


def test_a_blend_with_a_fault_of_its_own_is_not_the_knee() -> None:
    dial = Heard(slow=0.7).dial()
    lost = "every smaller blend loses more than 2 % of the likeness"
    assert dial.words == f"{lost} or has a fault that the fine-tune has not: use the fine-tune"
    assert dial.command == "ttstrain export 'runs/my run' -o OUT"


def test_beyond_the_fine_tune_there_is_no_knee() -> None:
    dial = Heard(voices={0.0: 0.5, 1.0: 0.8, 1.2: 0.9}, losses=None).dial()
    assert dial.knee is not None
    assert dial.knee.blend == 1.0
    assert "forgetting was not measured" in dial.words


def test_a_fine_tune_that_brings_nothing_is_said_to() -> None:
    dial = Heard(voices=dict.fromkeys(VOICES, 0.8)).dial()
    assert dial.words == "the base alone has 100 % of the likeness: this fine-tune brings nearly none"
    assert dial.command is None


def test_where_nothing_is_forgotten_nothing_is_undone() -> None:
    dial = Heard(losses={0.0: 1.0, 0.5: 0.99, 0.7: 0.98, 1.0: 0.97}).dial()
    assert {mark.undone for mark in dial.marks} == {None}
    assert dial.words.endswith("keeps 98 % of the likeness; the fine-tune forgets nothing that exceeds the interval")


def test_the_table_has_a_line_for_each_blend_in_80_columns() -> None:
    dial = Heard().dial()
    lines = table(dial)
    assert lines[0].split() == ["blend", "voice", "likeness", "pace", "retention", "forgotten", "undone"]
    assert lines[3].split() == ["0.7", "0.78", "98", "%", "1.00", "1.7904", "+0.0404", "60", "%", "knee"]
    assert all(len(line) <= 80 for line in lines)
    document = to_json(dial)
    assert (document["knee"], [one["blend"] for one in document["blends"]]) == (0.7, list(VOICES))
    assert document["blends"][2]["voice_lost"]["mean"] == pytest.approx(-0.015)


def test_the_grid_always_holds_base_and_fine_tune() -> None:
    assert read_grid("auto") == GRID
    assert read_grid("0.7, 0.3") == (0.0, 0.3, 0.7, 1.0)
    for wrong in ("half", "0.5,", "0.5,2", "nan"):
        with pytest.raises(RecipeError):
            read_grid(wrong)
