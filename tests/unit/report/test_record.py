"""The page's content comes from the run's folder, and all of it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import run_folders
import soundfile

from ttstrain.bands.compare import edges
from ttstrain.bands.outcome import read_outcome, write_outcome
from ttstrain.checkpoint import judged
from ttstrain.errors import RecipeError
from ttstrain.judge.figures import MEANINGS
from ttstrain.optim.schedule import lr_at
from ttstrain.recipe.schema import Cosine
from ttstrain.registry import UNKNOWN_UNIT
from ttstrain.report import page, reference, sound
from ttstrain.report.charts import MOST_POINTS, Chart
from ttstrain.report.planned import planned_lrs
from ttstrain.report.record import Reader, Record, compare


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_folders.write_run(tmp_path_factory.mktemp("runs") / "made")


@pytest.fixture(scope="module")
def record(run: Path) -> Record:
    return Reader(run).read()


def chart(record: Record, name: str) -> Chart:
    return next(one for one in record.charts if one.id == name)


def test_every_metric_is_drawn_or_counted_elsewhere(record: Record) -> None:
    drawn = {line.key for one in record.charts for line in one.lines}
    logged = {key for step in (1, 20) for key in run_folders.row(step)} - {"step"}
    assert logged - drawn == {"guard/skipped"}


def test_a_metric_of_an_unknown_kind_is_drawn_too(tmp_path: Path) -> None:
    run = run_folders.write_run(tmp_path / "made")
    run_folders.write_metrics(run, [{"step": 1, "new/kind/of": 3.0}])
    (found,) = Reader(run).read().charts
    assert (found.title, found.section, found.steps, found.values) == ("new/kind", "other", [1], [[3.0]])


def test_points_are_what_was_logged(record: Record) -> None:
    held_out = chart(record, "held-out")
    assert held_out.steps == list(range(0, 61, 10))
    assert held_out.values[0] == pytest.approx(
        [run_folders.row(step)["eval/loss/total"] for step in held_out.steps], rel=1e-4
    )
    assert [line.label for line in held_out.lines] == ["raw weights", "EMA"]


def test_a_long_run_is_thinned_and_keeps_its_peak(tmp_path: Path) -> None:
    run = run_folders.write_run(tmp_path / "made")
    rows = [{"step": step, "train/loss/total": 50.0 if step == 4321 else 1.0} for step in range(1, 9001)]
    run_folders.write_metrics(run, rows)
    found = chart(Reader(run).read(), "train")
    assert len(found.steps) <= MOST_POINTS * 1.1
    assert found.thinned == 9000
    assert found.values[0][list(found.steps).index(4321)] == 50.0


def test_the_planned_lr_is_the_schedules(run: Path) -> None:
    plan = json.loads((run / "plan.json").read_text())
    schedule = Cosine.model_validate({k: v for k, v in run_folders.SCHEDULE.items() if k != "kind"})
    wanted = [
        lr_at(schedule, step=step - 1, base_lr=1e-3, total_steps=60, steps_per_epoch=7.5) for step in (1, 6, 7, 60)
    ]
    assert planned_lrs(plan, [1, 6, 7, 60]) == {"net/default": wanted}


def test_planned_lrs_follow_stages_and_freezing(run: Path) -> None:
    plan = json.loads((run / "plan.json").read_text())
    constant = {"kind": "constant", "warmup_steps": 0}
    stage = {"steps": 10, "steps_per_epoch": 5.0, "lrs": {"net/default": 2.0}}
    plan["stages"] = [{**stage, "first_step": 0}, {**stage, "first_step": 10, "lrs": {"net/default": 0.0}}]
    plan["recipe"]["stages"] = [{"schedule": constant}, {"schedule": constant}]
    assert planned_lrs(plan, [1, 10, 11, 20]) == {"net/default": [2.0, 2.0, 0.0, 0.0]}
    plan["groups"][0]["frozen"] = [2, 4]
    assert planned_lrs(plan, [2, 3, 4, 5]) == {"net/default": [2.0, 0.0, 0.0, 2.0]}
    plan["groups"][0]["layer_decay"] = 0.9
    assert planned_lrs(plan, [1]) == {}


def test_incidents_and_warnings_are_told_with_their_steps(record: Record) -> None:
    (incident,) = record.marks
    assert (incident.step, incident.kind) == (32, "skip")
    assert incident.text == f"spike; loss nan; gradient norm 7.5; clips {run_folders.EVIL}"
    assert [(one.step, one.text) for one in record.events.warnings] == [(12, run_folders.EVIL)]
    assert any("The guard acted 1 time: skip 1." in sentence for sentence in record.verdict.sentences)


def test_the_grid_has_the_recording_the_base_once_and_every_step(run: Path, record: Record) -> None:
    (row,) = record.grid.rows
    assert [(cell.by, cell.step) for cell in row.cells] == [
        ("recording", None),
        ("base", None),
        *((by, step) for step in (20, 40, 60) for by in ("online", "ema")),
    ]
    assert all(cell.picture.startswith("data:image/png;base64,") for cell in row.cells)
    for cell in row.cells:
        assert soundfile.info(run / cell.address).duration == pytest.approx(cell.seconds)


def test_the_recording_is_kept_as_it_was_trained_on(run: Path, record: Record) -> None:
    wav, rate = soundfile.read(run / record.grid.rows[0].cells[0].address)
    np.testing.assert_allclose(wav, 0.5 * run_folders.tone(1.0), atol=1e-4)  # without the lead, at half the level
    assert rate == run_folders.RATE


def test_settings_say_where_they_come_from_and_what_auto_became(record: Record) -> None:
    found = {setting.key: setting for setting in record.settings}
    assert (found["optim.lr"].value, found["optim.lr"].origin) == ("0.001", "recipe")
    assert (found["sample.every"].value, found["sample.every"].decided) == ("auto", "20")
    assert found["data.path"].value == run_folders.EVIL
    assert found["stages"].value == "[]"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ({"forecast": {"taken": {"total_s": 60.0}}, "took": {"total_s": 65.0}}, "1:05, forecast 1:00"),
        ({"forecast": None, "took": {"total_s": 65.0}}, "1:05"),
        ({"forecast": None, "took": {}}, None),
        (["damaged"], None),
    ],
)
def test_the_time_stands_beside_its_forecast(written: object, shown: str | None, tmp_path: Path) -> None:
    run = run_folders.write_run(tmp_path / "made")
    (run / "forecast.json").write_text(json.dumps(written), encoding="utf-8")
    assert dict(Reader(run).read().facts).get("took") == shown


def test_data_are_summarised(record: Record) -> None:
    facts = dict(record.data.facts)
    assert facts["trained on"] == "3 clips, 9 seconds"
    assert facts["held out"] == "1 clip, 1 seconds"
    assert facts["too long"] == "1 left out, longer than a batch holds: long-1"
    assert [(one.title, sum(one.counts)) for one in record.data.histograms] == [("Duration", 3), ("Pace", 3)]
    assert dict(record.data.symbols)["a"] == 3 * "an ordinary text".count("a")
    (left_out,) = record.data.left_out
    assert (left_out.reason, left_out.count, left_out.examples) == ("too short", 1, [f"bad: {run_folders.EVIL}"])


def test_differing_settings_are_listed_and_equal_ones_are_not(run: Path, record: Record, tmp_path: Path) -> None:
    other = Reader(run_folders.write_run(tmp_path / "other", name="other", lr=5e-4)).read()
    (difference,) = compare([record, other]).differences
    assert (difference.key, difference.values) == ("optim.lr", ["0.001", "0.0005"])


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="not the folder of a run"):
        Reader(tmp_path)


def test_damaged_files_are_told_and_do_not_hide_the_rest(tmp_path: Path) -> None:
    run = run_folders.write_run(tmp_path / "made")
    for name in ("plan.json", "judge.json", "data/train.jsonl", "samples/step-00000020/numbers.json"):
        (run / name).write_text("{broken")
    (run / "samples/step-00000040/clip-0.wav").write_bytes(b"no sound")
    found = Reader(run).read()
    assert any("plan.json" in note for note in found.notes)
    assert any("train.jsonl" in note for note in found.data.notes)
    assert any("numbers.json" in note for note in found.grid.notes)
    assert any("clip-0.wav cannot be drawn" in note for note in found.grid.notes)
    assert any("judge.json" in sentence for sentence in found.verdict.sentences)
    assert chart(found, "held-out").steps


def test_a_run_that_is_read_again_shows_what_is_new(tmp_path: Path) -> None:
    run = run_folders.write_run(tmp_path / "made", steps=20)
    reader = Reader(run)
    assert chart(reader.read(), "held-out").steps[-1] == 20
    run_folders.write_metrics(run, [run_folders.row(step) for step in range(41)])
    run_folders.write_samples(run, 40)
    again = reader.read()
    assert chart(again, "held-out").steps[-1] == 40
    assert list(again.grid.steps) == [0, 20, 40]


def test_values_that_are_no_numbers_are_left_out_and_told(tmp_path: Path) -> None:
    run = run_folders.write_run(tmp_path / "made", steps=20)
    rows = [run_folders.row(step) | {"train/loss/total": None if 5 <= step < 8 else 1.0} for step in range(21)]
    run_folders.write_metrics(run, rows)
    numbers = run / "samples" / "step-00000020" / "numbers.json"
    numbers.write_text(numbers.read_text().replace('"mel_distance": 1.5', '"mel_distance": NaN').replace("1.2", "NaN"))
    found = Reader(run).read()
    assert "`train/loss/total` was NaN or infinite at 3 logged steps, first at step 5" in found.notes
    (row,) = found.grid.rows
    assert [cell.figures for cell in row.cells if cell.step == 20] == [{"length ratio": 1.0}] * 2
    page.as_json(compare([found]).to_json())


def test_an_average_that_is_better_than_the_base_is_not_hidden(tmp_path: Path) -> None:
    run = run_folders.write_run(tmp_path / "made")
    losses = [(0, 1.0, 1.0), (10, 1.2, 0.8), (20, 1.3, 0.7)]
    run_folders.write_metrics(
        run, [{"step": step, "eval/loss/total": raw, "eval/ema_loss/total": ema} for step, raw, ema in losses]
    )
    (said, *_) = Reader(run).read().verdict.sentences
    assert said.endswith("to 1.3 (step 20); the EMA's was lowest at step 20 with 0.7.")
    run_folders.write_metrics(run, [{"step": step, "eval/loss/total": raw} for step, raw, _ in losses])
    assert "no evaluation is better than the first one" in Reader(run).read().verdict.sentences[0]


def judged_step(step: int, interval: dict[str, float | None]) -> judged.JudgedStep:
    side = {"usable": True, "faults": [], "figures": {meaning.name: interval for meaning in MEANINGS}}
    return judged.JudgedStep(step, "online", "better", "closer to the voice", 0.5, {"online": side, "base": side})


def test_of_many_judged_steps_a_few_are_shown_and_the_page_stays_small(tmp_path: Path) -> None:
    run = run_folders.write_run(tmp_path / "made")
    interval: dict[str, float | None] = {"mean": 0.123456789, "low": 0.0, "high": 0.2, "clips": 8}
    judged.write(run, judged.Judged([judged_step(step, interval) for step in range(10, 15_001, 10)]))
    found = Reader(run).read()
    shown = sorted({side.step for side in found.judgement.sides if side.step is not None})
    assert (shown[0], shown[-1], len(shown), found.judgement.left_out) == (10, 15_000, 40, 1460)
    assert len(page.as_json(compare([found]).to_json())) < 1_000_000


def test_a_figure_of_one_sentence_is_shown_without_an_interval(tmp_path: Path) -> None:
    run = run_folders.write_run(tmp_path / "made")
    judged.write(run, judged.Judged([judged_step(20, {"mean": 0.5, "low": None, "high": None, "clips": 1})]))
    (side,) = (one for one in Reader(run).read().judgement.sides if one.step == 20)
    assert side.figures["voice"] == {"mean": 0.5, "low": None, "high": None}


def test_a_sound_that_cannot_be_put_into_the_page_is_told(tmp_path: Path) -> None:
    run = run_folders.write_run(tmp_path / "made")
    (run / "samples/step-00000040/clip-0.wav").write_bytes(b"no sound")
    found = Reader(run).read(embed="flac")
    assert any("clip-0.wav cannot be put into the page" in note for note in found.grid.notes)
    (row,) = found.grid.rows
    assert [(cell.by, cell.step) for cell in row.cells if not cell.address] == [("online", 40)]


def test_pictures_are_drawn_once_and_those_of_the_last_page_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_folders.write_run(tmp_path / "made")
    drawn: list[Path] = []
    monkeypatch.setattr(sound, "_drawn", lambda path: drawn.append(path) or "p" * 100)
    monkeypatch.setattr(sound, "PICTURE_BYTES", 250)
    shelf = sound.Shelf(run)
    files = sorted((run / "samples").glob("*/*.wav"))
    for _ in range(2):
        shelf.begin(run, None)
        assert [len(shelf.picture(file)) for file in files[:5]] == [100, 100, 0, 0, 0]
    assert drawn == [files[0], files[1], files[2], files[2]]  # what has no room is not kept, and the rest not drawn
    shelf.begin(run, None)
    shelf.picture(files[3])
    shelf.begin(run, None)
    assert len(shelf._before) == 1


def test_a_plan_of_another_version_hides_nothing_else(tmp_path: Path) -> None:
    run = run_folders.write_run(tmp_path / "made")
    (run / "plan.json").write_text(json.dumps({"recipe": "no recipe", "groups": None, "data": {"overlong": 3}}))
    assert chart(Reader(run).read(), "grad-norm").steps


def test_names_that_are_no_unicode_have_addresses(tmp_path: Path) -> None:
    run = run_folders.write_run(tmp_path / "made").rename(tmp_path / os.fsdecode(b"made-\xff"))
    found = Reader(run).read(page=tmp_path)
    assert found.grid.rows[0].cells[0].address.startswith("made-%FF/samples/")


# ---------------------------------------------------------------- beside the reference runs


def compared(run: Path, monkeypatch: pytest.MonkeyPatch) -> Record:
    monkeypatch.setattr(reference, "find_band", lambda _name: run_folders.BAND)
    return Reader(run).read()


def test_the_band_is_drawn_under_its_metric_with_the_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_folders.write_run(tmp_path / "made")
    run_folders.write_comparison(run)
    found = compared(run, monkeypatch)
    (loss,) = chart(found, "train").shades
    assert (loss.place, loss.label) == ("inside", "3 reference runs of small: inside")
    assert list(loss.stretches) == edges("train/loss/total", run_folders.BAND, seed=-1)
    assert [(one.first, one.last) for one in loss.stretches] == [(1, 10), (11, 25), (26, 50)]
    assert chart(found, "grad-norm").shades[0].label.endswith(": below")
    held_out = chart(found, "held-out").shades[0]
    assert [one.first for one in held_out.stretches] == [0, 50]
    assert held_out.place is None and held_out.label.endswith(": not compared")  # the losses settled it
    assert [one.id for one in found.charts if one.shades] == ["held-out", "train", "grad-norm"]


def test_without_a_comparison_there_is_no_band(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_folders.write_run(tmp_path / "made")
    assert not any(one.shades for one in compared(run, monkeypatch).charts)
    run_folders.write_comparison(run, place=None)
    outcome = read_outcome(run)
    assert outcome is not None
    waiting = chart(compared(run, monkeypatch), "train").shades[0]  # while it is still to be compared too
    assert waiting.place is None and waiting.label.endswith(": not compared yet")
    write_outcome(run, replace(outcome, why_not="it has other data"))
    assert not any(one.shades for one in compared(run, monkeypatch).charts)


def test_a_damaged_comparison_is_told_and_the_page_is_written(tmp_path: Path) -> None:
    run = run_folders.write_run(tmp_path / "made")
    (run / "band.json").write_text("{}")
    assert any("the band of the reference runs is not drawn" in note for note in Reader(run).read().notes)


# ---------------------------------------------------------------- units


@pytest.mark.parametrize(
    ("task", "unit"), [("flow", "frames"), ("orpheus", "tokens"), ("gpt_sovits/gpt", "frames"), ("toy", UNKNOWN_UNIT)]
)
def test_speed_is_told_in_the_units_of_the_task(tmp_path: Path, task: str, unit: str) -> None:
    run = run_folders.write_run(tmp_path / "made")
    plan = json.loads((run / "plan.json").read_text())
    plan["recipe"]["task"] = task
    (run / "plan.json").write_text(json.dumps(plan))
    found = Reader(run).read()
    assert dict(found.facts)["speed"] == f"1,000 {unit} a second"
    assert chart(found, "throughput").note.startswith(f"Real {unit} in a second")
