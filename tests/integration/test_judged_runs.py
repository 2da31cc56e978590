"""The judge inside a run: it writes what it hears, decides, goes on after a resume, and changes nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small_runs import checkpoint, differences, finetune, metrics, ttstrain

from ttstrain.checkpoint import judged
from ttstrain.errors import RecipeError
from ttstrain.judge.figures import Figures
from ttstrain.judge.rule import Side, stand
from ttstrain.runs.resume import resume
from ttstrain.tracking import jsonl

JUDGED = (
    "sample.every=2",
    "sample.count=1",
    "train.steps=4",
    "judge.sentences=5",
    "judge.between=4",
    "checkpoint.best=judge",
)


@pytest.fixture(scope="module")
def run(recipe: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetune(recipe, tmp_path_factory.mktemp("judged"), *JUDGED, f"base={base}", "name=judged")


def test_figures_of_base_weights_and_average_are_logged_and_written(run: Path) -> None:
    rows = {row["step"]: row for row in metrics(run)}
    for prefix in ("", "ema_", "base_"):
        assert {f"judge/{prefix}{name}" for name in ("words", "pace", "silence_share")} <= rows[4].keys()
    assert rows[4]["judge/base_pace"] == rows[0]["judge/pace"]  # at step 0 the weights are the base's
    document = json.loads((run / "samples" / "step-00000004" / "numbers.json").read_text())
    entries = [*document["previews"], *document["only_heard"]]
    assert len(entries) == 5
    paces = [pace for entry in entries if (pace := entry["ema"]["judge"]["pace"]) is not None]
    assert rows[4]["judge/ema_pace"] == pytest.approx(sum(paces) / len(paces))
    assert len(list((run / "samples" / "step-00000004").glob("*.wav"))) == 3  # what is only heard is not kept
    assert [step.step for step in judged.read(run).steps] == [2, 4]


def test_sentences_that_the_run_trains_on_are_counted(run: Path) -> None:
    held_out = (run / "data" / "held_out.jsonl").read_text(encoding="utf-8").splitlines()
    between, last = judged.read(run).steps
    assert (between.sentences, between.trained) == (4, 4 - len(held_out))
    assert (last.sentences, last.trained) == (5, 5 - len(held_out))


def test_in_so_short_a_run_the_judge_waits_for_the_end_and_says_so(recipe: Path, base: Path, tmp_path: Path) -> None:
    run = (
        "sample.every=1",
        "sample.count=1",
        "train.steps=3",
        "judge.sentences=5",
        "name=short",
        f"run_dir={tmp_path}",
    )
    done = ttstrain("finetune", recipe, *run, f"base={base}")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("it listens at a later sampling step") == 1
    assert [step.step for step in judged.read(tmp_path / "short").steps] == [3]
    rows = {row["step"]: row for row in jsonl.read(tmp_path / "short" / jsonl.FILE_NAME)}
    assert "judge/pace" not in rows[1] and 0 < rows[3]["judge/share_of_time"] < 1
    assert f"judge: {100 * rows[3]['judge/share_of_time']:.0f} % of the run's time" in done.stderr


def test_the_judge_changes_no_training(run: Path, recipe: Path, base: Path, tmp_path: Path) -> None:
    deaf = finetune(
        recipe, tmp_path, *JUDGED, f"base={base}", "name=deaf", "judge.enabled=false", "checkpoint.best=null"
    )
    unlike = differences(checkpoint(deaf, 4).state, checkpoint(run, 4).state)
    assert [name for name in unlike if not name.startswith("best.")] == []
    assert not (deaf / judged.FILE_NAME).exists()


def test_a_resumed_run_goes_on_with_its_history(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "judged"
    shutil.copytree(run, copy)
    resume(copy, ["train.steps=6"])
    before, after = judged.read(run), judged.read(copy)
    assert [step.step for step in after.steps] == [2, 4, 6]
    assert list(after.steps[:2]) == list(before.steps)
    assert after.base == before.base
    assert "base" in after.steps[-1].sides


def test_the_end_of_a_run_and_an_export_say_the_verdict(run: Path, base: Path, recipe: Path, tmp_path: Path) -> None:
    done = ttstrain("finetune", recipe, *JUDGED, f"base={base}", "name=told", f"run_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "\n  judge: this net does not speak yet, nor does its base: no verdict (" in done.stderr
    assert "step 4  judge" in done.stderr
    told = ttstrain("export", tmp_path / "told", "-o", tmp_path / "out")
    assert told.returncode == 0, told.stderr
    assert "WARNING: this net does not speak yet" in told.stderr


def test_a_choice_by_the_judge_needs_one(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="the run is not judged"):
        finetune(recipe, tmp_path, "checkpoint.best=judge")
    with pytest.raises(RecipeError, match="nothing is held out"):
        finetune(recipe, tmp_path, "checkpoint.best=judge", "sample.every=2", "data.holdout=0", "eval.every=auto")
    with pytest.raises(RecipeError, match="needs samples"):
        finetune(recipe, tmp_path, "judge.enabled=true")
    with pytest.raises(RecipeError, match=r"early_stop\.metric` is `judge`, and the run is not judged"):
        finetune(recipe, tmp_path, "train.early_stop={metric: judge}", "eval.every=1")


def test_a_run_stops_early_by_what_is_heard_of_the_same_sentences(recipe: Path, base: Path, tmp_path: Path) -> None:
    stop = "train.early_stop={metric: judge, patience: 1, min_delta: 2}"  # no score rises by 2
    run = finetune(recipe, tmp_path, *JUDGED, "train.steps=20", "eval.every=1", stop, f"base={base}", "name=early")
    steps = judged.read(run).steps
    assert [step.step for step in steps] == [
        2,
        4,
    ]  # the second listening is no better than the first
    assert [step.sentences for step in steps] == [4, 4]
    rows = {row["step"]: row for row in metrics(run)}
    assert max(rows) == 4
    assert steps[-1].score == pytest.approx(rows[4]["judge/chosen_score"])


def test_scores_are_over_the_sentences_that_are_heard_at_every_step(run: Path) -> None:
    """The last step hears five sentences; its score is over the four of the step between."""
    document = json.loads((run / "samples" / "step-00000004" / "numbers.json").read_text())
    entries = [*document["previews"], *document["only_heard"]][:4]
    own = [Figures.of_json(entry["ema"]["judge"]) for entry in entries]
    base = [Figures.of_json(entry["base"]["judge"]) for entry in entries]
    expected = stand(Side("ema", "", own), Side("base", "", base)).score
    row = next(row for row in metrics(run) if row["step"] == 4)
    assert row.get("judge/ema_score") == (None if expected is None else pytest.approx(expected))


def test_checkpoints_are_evaluated_beside_their_base(run: Path, tmp_path: Path) -> None:
    done = ttstrain("eval", run, "--sentences", "5", "--json", tmp_path / "e.json", "-o", tmp_path / "wavs")
    assert done.returncode == 0, done.stderr
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert "verdict     this net does not speak yet" in done.stdout
    found = json.loads((tmp_path / "e.json").read_text())
    assert [side["key"] for side in found["sides"]] == ["base", "1-online", "1-ema"]
    assert len(list((tmp_path / "wavs").glob("*.wav"))) == 15
    assert found["sides"][1]["against_base"]["pace"]["clips"] == 5


def test_texts_without_recordings_have_the_figures_that_need_none(run: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("hello there my friend\nnobody told the captain\n")
    done = ttstrain("eval", run, "--texts", tmp_path / "texts.txt", "--json", tmp_path / "e.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "e.json").read_text())
    assert "words" not in found["sides"][0]["figures"] and "silence_share" in found["sides"][0]["figures"]
