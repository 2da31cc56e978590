"""What a person finds in W&B beside the curves: tables of samples, alerts, summaries, names and former runs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from PIL import Image

from tests.support import wandb_file
from tests.support.wandb_file import read_offline_run, run_files
from ttstrain.contract.task import Audio, Sample
from ttstrain.recipe.schema import TrackingConfig
from ttstrain.tracking import spectrogram
from ttstrain.tracking.build import build_trackers
from ttstrain.tracking.tracker import Former, RunInfo, Spoken, SpokenBy
from ttstrain.tracking.wandb import WandbNames, WandbTracker
from ttstrain.warning_listener import Listener

pytestmark = pytest.mark.timeout(120)
VARIABLES = ("PROJECT", "ENTITY", "TAGS", "NAME", "NOTES", "RUN_GROUP", "DISABLED", "MODE", "API_KEY")


@pytest.fixture(autouse=True)
def _fresh_wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    import wandb

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    for name in VARIABLES:
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    wandb.teardown()
    yield
    wandb.teardown()
    with Listener(print):  # takes the place of the trackers that no test here finishes
        pass


def info(run_dir: Path, *, start_step: int = 0, former: Former | None = None) -> RunInfo:
    run_dir.mkdir(exist_ok=True)
    return RunInfo(
        name="a run",
        run_dir=run_dir,
        run_id="run-7f3a",
        resumed=start_step > 0,
        recipe={"task": "flow"},
        plan_summary=(),
        total_steps=100,
        start_step=start_step,
        steps_per_epoch=10.0,
        former=former,
    )


class Told(list[str]):
    """Notes and warnings."""


def start(run_dir: Path, told: Told, names: WandbNames | None = None, **facts: Any) -> WandbTracker:
    tracker = WandbTracker(mode="offline", names=names or WandbNames("p"), note=lambda _: None, warn=told.append)
    tracker.start(info(run_dir, **facts))
    return tracker


def records(file: Path, kind: str) -> list[Any]:
    from wandb.proto import wandb_internal_pb2

    parsed = [wandb_internal_pb2.Record.FromString(data) for data in wandb_file.records(file.read_bytes())]
    return [getattr(record, kind) for record in parsed if record.WhichOneof("record_type") == kind]


def header(run_dir: Path) -> Any:
    return records(run_files(run_dir, "run-7f3a")[-1], "run")[0]


def speak(folder: Path, name: str, *, hz: float) -> Spoken:
    folder.mkdir(exist_ok=True)
    wav = torch.sin(torch.arange(2400) * hz / 3819.7)
    soundfile.write(folder / f"{name}.wav", wav.numpy(), 24000, subtype="PCM_16")
    mel = torch.full((20, 100), -hz / 100)
    spectrogram.write(folder / f"{name}.png", mel)
    sample = Sample(Audio(wav, 24000), mel)
    return Spoken(folder / f"{name}.wav", 0.1, sample, mel_distance=hz / 100, numbers={"stopped": 1.0})


def test_each_sampling_step_has_a_table_with_base_raw_and_ema(tmp_path: Path) -> None:
    told, samples = Told(), tmp_path / "samples"
    tracker = start(tmp_path / "run", told)
    for step in (5, 10):
        for name in ("a", "b"):
            spoken: dict[SpokenBy, Spoken] = {
                "online": speak(samples, f"{name}{step}", hz=100 + step),
                "ema": speak(samples, f"{name}{step}.ema", hz=200 + step),
            }
            if name == "a":
                spoken["base"] = speak(samples, f"{name}{step}.base", hz=300 + step)
            tracker.sample(step, name, f"Text of {name}.", spoken)
        tracker.log(step, {"sample/mel_distance/mean": 1.0})
    tracker.finish("done")
    (file,) = run_files(tmp_path / "run", "run-7f3a")
    tables = [row for row in read_offline_run(file) if "sample/table" in row]
    assert [row["step"] for row in tables] == [5, 10]
    artifacts = [record for record in records(file, "artifact") if record.type == "run_table"]
    for step, artifact in zip((5, 10), artifacts, strict=True):
        kept = {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}
        assert all(path.is_relative_to(tmp_path / "run") for path in kept.values())
        table = json.loads(kept["sample/table.table.json"].read_text())
        assert table["columns"][:9] == [
            *("step", "name", "text"),
            *("base audio", "base mel", "raw audio", "raw mel", "EMA audio", "EMA mel"),
        ]
        first, second = (dict(zip(table["columns"], cells, strict=True)) for cells in table["data"])
        assert (first["step"], first["name"], first["text"]) == (step, "a", "Text of a.")
        for title, ending in (("base", ".base"), ("raw", ""), ("EMA", ".ema")):
            sound = kept[first[f"{title} audio"]["path"]]
            assert sound.read_bytes() == (samples / f"a{step}{ending}.wav").read_bytes()
            with Image.open(kept[first[f"{title} mel"]["path"]]) as picture:
                assert picture.size == (40, 200)  # 20 frames of 100 bands, two pixels each
        assert first["EMA mel distance"] == pytest.approx((200 + step) / 100)
        assert first["raw stopped"] == 1.0
        assert (second["base audio"], second["base mel"], second["base mel distance"]) == (None, None, None)
    assert told == []


def test_a_table_waits_for_its_last_sentence_and_is_not_lost_at_the_end(tmp_path: Path) -> None:
    told = Told()
    tracker = start(tmp_path / "run", told)
    tracker.sample(7, "a", "A.", {"online": speak(tmp_path / "samples", "a", hz=100)})
    tracker.finish("interrupted")  # before the figures of the step
    (file,) = run_files(tmp_path / "run", "run-7f3a")
    assert [row["step"] for row in read_offline_run(file) if "sample/table" in row] == [7]
    assert told == []


def test_incidents_are_alerts_and_the_last_one_is_in_the_summary(tmp_path: Path) -> None:
    tracker = start(tmp_path / "run", Told())
    tracker.incident(3, "skip", "the loss is not finite")
    tracker.incident(9, "give up", "three rollbacks")
    tracker.finish("diverged")
    (file,) = run_files(tmp_path / "run", "run-7f3a")
    assert [(alert.title, alert.text, alert.level) for alert in records(file, "alert")] == [
        ("ttstrain: skip", "Step 3: the loss is not finite", "WARN"),
        ("ttstrain: give up", "Step 9: three rollbacks", "ERROR"),
    ]
    assert [alert.wait_duration for alert in records(file, "alert")] == [300_000, 300_000]


def test_the_table_of_runs_shows_the_lowest_loss_and_the_highest_score(tmp_path: Path) -> None:
    tracker = start(tmp_path / "run", Told())
    for step, loss, score in ((1, 0.9, 0.2), (2, 0.4, 0.7), (3, 0.6, 0.5)):
        tracker.log(step, {"train/loss/total": loss, "eval/loss/total": loss, "eval/ema_loss/total": loss + 1})
        tracker.log(step, {"judge/chosen_score": score, "judge/score": score, "judge/voice": score})
    shown = tracker._run.summary
    assert {name: dict(shown[f"eval/{name}/total"]) for name in ("loss", "ema_loss")} == {
        "loss": {"min": 0.4, "last": 0.6},
        "ema_loss": {"min": 1.4, "last": 1.6},
    }
    assert dict(shown["judge/chosen_score"]) == dict(shown["judge/score"]) == {"max": 0.7, "last": 0.5}
    assert (shown["train/loss/total"], shown["judge/voice"]) == (0.6, 0.5)
    tracker.finish("done")
    (file,) = run_files(tmp_path / "run", "run-7f3a")
    assert {metric.step_metric for metric in records(file, "metric") if metric.name != "step"} == {"step"}


ENVIRONMENT = {"PROJECT": "theirs", "ENTITY": "team", "TAGS": "x, y", "NAME": "night", "RUN_GROUP": "g", "NOTES": "n"}


@pytest.mark.parametrize("origin", ["default", "recipe", "command line"])
def test_names_from_the_environment_count_unless_the_recipe_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: str
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    said = TrackingConfig(wandb="offline", wandb_project="ours", wandb_entity="me", tags=["z"])
    config = said if origin != "default" else TrackingConfig(wandb="offline")
    keys = ("wandb", "wandb_project", "wandb_entity", "tags")
    trackers = build_trackers(config, origins={f"tracking.{key}": origin for key in keys})
    trackers.start(info(tmp_path / "run"))
    trackers.finish("done")
    found = header(tmp_path / "run")
    theirs = ("theirs", "team", ["x", "y"])
    assert (found.project, found.entity, list(found.tags)) == (theirs if origin == "default" else ("ours", "me", ["z"]))
    assert (found.display_name, found.run_group, found.notes) == ("night", "g", "n")  # no key of the recipe


@pytest.mark.parametrize(("value", "count"), [("true", 0), ("1", 0), ("false", 1), ("", 1)])
def test_wandb_disabled_turns_it_off(monkeypatch: pytest.MonkeyPatch, value: str, count: int) -> None:
    monkeypatch.setenv("WANDB_DISABLED", value)
    trackers = build_trackers(TrackingConfig(), origins={})
    assert sum(isinstance(tracker, WandbTracker) for tracker in trackers) == count


def test_a_resumed_run_stays_in_the_project_where_it_was(tmp_path: Path) -> None:
    start(tmp_path / "run", Told(), WandbNames("p", "team")).finish("preempted")
    start(tmp_path / "run", Told(), WandbNames("other"), start_step=5).finish("preempted")
    assert (header(tmp_path / "run").project, header(tmp_path / "run").entity) == ("p", "team")
    moved = WandbNames("other", said=frozenset({"project"}))
    start(tmp_path / "run", Told(), moved, start_step=5).finish("done")
    assert (header(tmp_path / "run").project, header(tmp_path / "run").entity) == ("other", "team")


def test_a_new_run_says_which_one_it_continues_from(tmp_path: Path) -> None:
    tracker = start(tmp_path / "run", Told(), former=Former("old voice", "run-0b1c", 400))
    tracker.log(1, {"a": math.pi})
    tracker.finish("done")
    found = header(tmp_path / "run")
    config = {update.key: json.loads(update.value_json) for update in found.config.update}
    assert config["continues_from"] == {"name": "old voice", "run_id": "run-0b1c", "step": 400}
    (file,) = run_files(tmp_path / "run", "run-7f3a")
    assert records(file, "run")[-1].notes == "Continues from step 400 of `old voice`"


def test_the_link_to_the_former_run_has_its_address_and_keeps_other_notes(tmp_path: Path) -> None:
    class Online:
        url, notes = "https://somewhere/team/p/runs/run-7f3a", "mine"

    tracker = start(tmp_path / "run", Told())
    kept, tracker._run = tracker._run, Online()
    for _ in range(2):  # a second start, as after a lost service, adds nothing
        tracker._link_to(Former("old voice", "run-0b1c", 400))
    link = "https://somewhere/team/p/runs/run-0b1c"
    assert Online.notes == "mine"
    assert tracker._run.notes == f"mine\n\nContinues from step 400 of `old voice`: {link}"
    kept.finish()
