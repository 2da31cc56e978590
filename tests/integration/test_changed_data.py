"""A run that goes on with other data keeps its split, and forgets what no longer compares."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from small_runs import RECIPE, checkpoint, finetune, metrics, write_clips, write_recipe

from ttstrain.errors import DataError, RecipeError
from ttstrain.runs.resume import resume

MakeRun = Callable[..., Path]


@pytest.fixture
def start(tmp_path: Path) -> MakeRun:
    def start(*overrides: str) -> Path:
        data = write_clips(tmp_path / "speech", count=8)
        short = ["train.steps=2", "train.accumulate=1", "optim.schedule.warmup_steps=1", "ema.enabled=false"]
        recipe = write_recipe(tmp_path / "r.yaml", data=data, text=RECIPE)
        return finetune(recipe, tmp_path / "runs", "name=run", *short, *overrides)

    return start


def held_out(run: Path) -> list[str]:
    lines = (run / "data" / "held_out.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["id"] for line in lines]


def table_of(run: Path) -> Path:
    return run.parents[1] / "speech" / "metadata.csv"


def edit(table: Path, id_: str, new: str | None) -> None:
    rows = [row for row in table.read_text().splitlines() if not row.startswith(f"{id_}|")]
    table.write_text("\n".join([*rows, *([] if new is None else [f"{id_}|{new}"])]))


def test_a_text_that_is_measured_was_edited(start: MakeRun, capfd: pytest.CaptureFixture[str]) -> None:
    run = start("train.early_stop={patience: 9}")
    before = checkpoint(run, 2).state
    assert before["best"]["step"] == 2
    held = held_out(run)
    edit(table_of(run), held[0], "Some words")
    resume(run, ["train.steps=4"])
    said = " ".join(capfd.readouterr().err.split())
    assert f"the data changed since the run last started: clips 1 with another text (`{held[0]}`)" in said
    forgotten = f"the best loss ({before['best']['value']:.4f} at step 2) and the patience of the early stop are reset"
    assert forgotten in said
    assert "(base" not in said.partition("reset")[2]  # another measure: no base to compare with
    assert held_out(run) == held
    best = checkpoint(run, 4).state["best"]
    assert (best["since"], best["step"] in (3, 4)) == (2, True)
    assert best["value"] == min(row["eval/loss/total"] for row in metrics(run, after=2) if "eval/loss/total" in row)
    written = [json.loads(line) for line in (run / "data" / "changes.jsonl").read_text().splitlines()]
    assert [(line["step"], line["text"]) for line in written] == [(2, [held[0]])]


def test_a_text_that_is_trained_was_edited(start: MakeRun, capfd: pytest.CaptureFixture[str]) -> None:
    run = start()
    best = checkpoint(run, 2).state["best"]
    trained = next(row.partition("|")[0] for row in table_of(run).read_text().splitlines())
    assert trained not in held_out(run)
    edit(table_of(run), trained, "Some words")
    resume(run, ["train.steps=3", "eval.every=9"])
    said = " ".join(capfd.readouterr().err.split())
    assert f"1 with another text (`{trained}`)" in said
    assert "are reset" not in said
    assert checkpoint(run, 3).state["best"]["measured"] == best["measured"]


def test_held_out_clips_that_are_gone_are_no_reason_to_hold_out_trained_ones(start: MakeRun) -> None:
    run = start()
    first, second = held_out(run)
    edit(table_of(run), first, None)
    resume(run, ["train.steps=3"])
    assert held_out(run) == [second]
    edit(table_of(run), second, None)
    with pytest.raises(RecipeError, match="none of the run's 1 held-out clips is left") as caught:
        resume(run, ["train.steps=4"])
    assert "hold out other clips with `data.holdout=N`" in str(caught.value.hint)
    resume(run, ["train.steps=4", "data.holdout=1"])
    assert len(held_out(run)) == 1
    assert held_out(run) != [second]


def test_data_that_moved_are_found_with_the_option_or_the_key(start: MakeRun, tmp_path: Path) -> None:
    run = start(f"data.path={tmp_path / 'speech'}")
    moved = (tmp_path / "speech").rename(tmp_path / "moved here")
    with pytest.raises(DataError) as caught:
        resume(run, ["train.steps=3"])
    assert "`data.path=PATH` (or `--data PATH`)" in str(caught.value.hint)
    resume(run, ["train.steps=3"], data=moved)
    resume(run, ["train.steps=4"])  # it goes on from there
    again = moved.rename(tmp_path / "speech")
    with pytest.raises(RecipeError, match="is set by an option and by"):
        resume(run, ["train.steps=5", f"data.path={again}"], data=again)
    resume(run, ["train.steps=5", f"data.path={again}"])


def test_what_was_counted_of_another_metric_is_forgotten_and_said(
    start: MakeRun, capfd: pytest.CaptureFixture[str]
) -> None:
    run = start("train.early_stop={patience: 9}")
    assert checkpoint(run, 2).state["early_stop"]["metric"] == "eval/loss/total"
    other = "eval/loss/t0"
    resume(run, ["train.steps=3", "eval.every=9", f"checkpoint.best={other}", f"train.early_stop.metric={other}"])
    said = " ".join(capfd.readouterr().err.split())
    assert f"`checkpoint.best` was `eval/loss/total`: the best of `{other}` is not known yet" in said
    assert "`train.early_stop.metric` was `eval/loss/total`: the patience begins again" in said
    state = checkpoint(run, 3).state
    value = next(row[other] for row in metrics(run, after=2) if other in row)
    assert state["early_stop"] == {"best": value, "num_bad": 0, "metric": other}
    assert (state["best"]["value"], state["best"]["step"]) == (value, 3)
