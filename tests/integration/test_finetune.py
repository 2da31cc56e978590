"""`ttstrain finetune` as a person runs it: what it leaves behind, what it refuses, and how it is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import soundfile
import torch
from small_runs import checkpoint, command, finetune, metrics, ttstrain, write_clips, write_recipe

from tests.support.wandb_file import read_offline_run, run_files
from ttstrain.checkpoint import pointers
from ttstrain.errors import CheckpointError, DataError, Interrupted, RecipeError
from ttstrain.plan.resolve import parse, resolve
from ttstrain.recipe.compose import compose_run
from ttstrain.runs.resume import resume
from ttstrain.train import loop, measure
from ttstrain.train.prepare import prepare
from ttstrain.train.run import Run

STEPS = 60
GROUPS = "[{name: text, match: ['*text_embed*'], lr_scale: 0.5}, {name: late, match: ['*proj_out*'], frozen: [0, 3]}]"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recipe")
    return write_recipe(root / "r.yaml", data=write_clips(root / "speech", count=6))


@pytest.fixture(scope="module")
def finished(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Train on six clips through the real entry point, with everything on that needs nothing else."""
    folder = tmp_path_factory.mktemp("runs")
    done = ttstrain(
        *("finetune", recipe, "--run-dir", folder, "name=six", f"train.steps={STEPS}", "optim.lr=5e-3"),
        *("data.holdout=0.1", "train.accumulate=1", "eval.every=20", "sample={every: 30, count: 1}"),
        *("checkpoint={every: 20, keep_last: 2}", "tracking.wandb=offline"),
    )
    assert done.returncode == 0, done.stderr
    return folder / "six", done


# ---------------------------------------------------------------- a whole run


@pytest.mark.slow
def test_six_clips_train_and_both_losses_fall(finished: tuple[Path, Any]) -> None:
    rows = metrics(finished[0])
    assert [row["step"] for row in rows] == list(range(STEPS + 1))
    train = [row["train/loss/model"] for row in rows if "train/loss/model" in row]
    assert mean(train[-15:]) < 0.8 * mean(train[:15])
    for name in ("loss/total", "loss/t0", "loss/t4", "ema_loss/total"):
        held_out = [row[f"eval/{name}"] for row in rows if f"eval/{name}" in row]
        assert len(held_out) == 4
        assert held_out[-1] < 0.8 * held_out[0], name


def test_the_run_folder_holds_what_it_promises(finished: tuple[Path, Any]) -> None:
    run, done = finished
    assert {path.name for path in run.iterdir()} == {
        *("recipe.yaml", "plan.json", "env.json", "metrics.jsonl"),
        *("data", "checkpoints", "samples", "sessions", "wandb", "judge.json", "report.html", "forecast.json"),
    }
    assert (run / "data" / "quarantine.jsonl").is_file()
    root = run / "checkpoints"
    assert sorted(path.name for path in root.iterdir()) == ["best", "last", "step-00000040", "step-00000060"]
    assert (root / "last").read_text() == "step-00000060\n"
    loaded = checkpoint(run, STEPS)  # compares every sha256
    assert {"weights.safetensors", "ema.safetensors", "optimizers.safetensors"} <= set(loaded.meta.files)
    assert {path.name for path in (root / "step-00000060").iterdir()} == {*loaded.meta.files, "meta.json"}
    assert [path.name for path in sorted((run / "samples").iterdir())] == [
        "recordings",  # as they were trained on, for the report
        *(f"step-{step:08d}" for step in (0, 30, STEPS)),
    ]
    for wav in run.glob("samples/*/*.wav"):
        samples, rate = soundfile.read(wav)
        assert (rate, abs(samples).max() > 0) == (24_000, True)
    assert len(list(run.glob("wandb/offline-run-*"))) == 1
    assert done.stdout == ""
    assert str(run) in done.stderr


def test_every_kind_of_number_is_in_the_metrics(finished: tuple[Path, Any]) -> None:
    lines = (finished[0] / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert all(next(iter(row)) == "step" for row in rows)
    assert set(rows[-1]) >= {
        *("train/loss/model", "eval/loss/total", "optim/lr/model/default", "optim/grad_norm/model"),
        *("optim/update_ratio/model/default", "ema/decay", "ema/distance", "guard/skipped", "guard/rollbacks"),
        *("time/step_s", "time/data_s", "perf/frames_per_s", "sample/mel_distance/mean"),
    }
    assert all(row["perf/frames_per_s"] > 0 for row in rows[1:])


def test_the_runs_recipe_is_the_plan_that_ran(finished: tuple[Path, Any]) -> None:
    run, _ = finished
    plan = json.loads((run / "plan.json").read_text())
    composed = compose_run(run, origins=plan["origins"])
    recipe = parse(composed)
    facts = prepare(recipe, device=torch.device("cpu")).facts
    again = resolve(recipe, origins=composed.origins, facts=facts, source_name=plan["name"])
    assert json.loads(json.dumps(again.to_json())) == plan
    assert plan["origins"]["optim.lr"] == "command line"
    assert plan["origins"]["model.dim"] == "recipe"
    assert plan["origins"]["guard.window"] == "default"


@pytest.mark.slow
def test_the_logged_lr_is_the_lr_that_stepped_everywhere(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[dict[int, float]] = []  # of each update, parameter's id -> LR
    step, tasks = torch.optim.AdamW.step, []

    def spy(self: torch.optim.AdamW, *arguments: Any) -> Any:
        groups = [(id(p), group["lr"]) for group in self.param_groups for p in group["params"] if p.grad is not None]
        used.append(dict(groups))
        return step(self, *arguments)

    def train(run: Run, *arguments: Any) -> Any:
        tasks.append(run.task)
        return loop.train(run, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    monkeypatch.setattr("ttstrain.runs.new.train", train)
    run = finetune(recipe, tmp_path, "name=r", f"optim.groups={GROUPS}", "tracking.wandb=offline")

    def lrs(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
        named = [{key: value for key, value in row.items() if key.startswith("optim/lr/")} for row in rows]
        return [{key.removeprefix("optim/lr/model/"): value for key, value in row.items()} for row in named if row]

    logged = lrs(metrics(run))
    assert len(logged) == len(used) == 8
    for number, (there, here) in enumerate(zip(used, logged, strict=True)):
        for name, parameter in tasks[0].named_parameters():
            group = "text" if "text_embed" in name else "late" if "proj_out" in name else "default"
            assert there.get(id(parameter)) == (None if group == "late" and number < 3 else here[group])
    assert [row["late"] for row in logged[:3]] == [0.0, 0.0, 0.0]
    assert all(row["text"] == 0.5 * row["default"] for row in logged)
    run_id = json.loads((run / "env.json").read_text())["run_id"]
    assert lrs([row for file in run_files(run, run_id) for row in read_offline_run(file)]) == logged


# ---------------------------------------------------------------- refused


def refusal(tmp_path: Path, *arguments: str | Path) -> tuple[int, str]:
    done = ttstrain("finetune", *arguments, "--run-dir", tmp_path / "runs")
    assert done.stdout == ""
    assert not (tmp_path / "runs").exists()
    return done.returncode, done.stderr


def test_an_unknown_key_leaves_with_2_and_the_nearest_one(recipe: Path, tmp_path: Path) -> None:
    code, said = refusal(tmp_path, recipe, "optim.warmup_steps=3")
    assert code == 2
    assert said.startswith("error: ")
    assert "optim.warmup_steps" in said
    assert "hint: " in said
    assert "optim.schedule.warmup_steps" in said


def test_bad_data_leave_with_3(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, said = refusal(tmp_path, recipe, "--data", tmp_path / "empty")
    assert code == 3
    assert said.startswith("error: ")
    assert "hint: " in said


def test_a_bad_base_leaves_with_4_before_any_data_are_prepared(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "base.safetensors").write_bytes(b"no weights at all")
    (tmp_path / "empty").mkdir()
    code, said = refusal(tmp_path, recipe, "--base", tmp_path / "base.safetensors", "--data", tmp_path / "empty")
    assert code == 4
    assert said.startswith("error: ")
    assert "base.safetensors" in said


def test_a_base_that_does_not_fit_leaves_no_folder(finished: tuple[Path, Any], recipe: Path, tmp_path: Path) -> None:
    arguments = [f"base={finished[0]}", "name=new", f"model.base_vocab={tmp_path / 'vocab.txt'}"]
    (tmp_path / "vocab.txt").write_text(" \na\nb\n")
    with pytest.raises(CheckpointError, match=r"3 tokens, .* embeddings for 2,545"):
        finetune(recipe, tmp_path / "runs", *arguments)
    assert not list((tmp_path / "runs").iterdir())


def test_a_named_run_is_not_shadowed(finished: tuple[Path, Any], recipe: Path, tmp_path: Path) -> None:
    run = finished[0]
    with pytest.raises(RecipeError, match="exists already") as caught:
        finetune(recipe, run.parent, "name=six", f"data.path={tmp_path / 'not looked at'}")
    assert f"ttstrain resume {run}" in str(caught.value.hint)


def test_runs_without_a_name_get_folders_of_their_own(recipe: Path, tmp_path: Path) -> None:
    made = {finetune(recipe, tmp_path, "train.steps=3") for _ in range(3)}
    assert len(made) == 3
    assert all(path.name.startswith("r-") for path in made)


def test_a_dry_run_trains_nothing(recipe: Path, tmp_path: Path) -> None:
    done = ttstrain("finetune", recipe, "--run-dir", tmp_path / "runs", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "8 steps" in done.stdout
    assert not (tmp_path / "runs").exists()


def test_a_clip_longer_than_the_budget_is_named_and_left_out(
    recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = finetune(
        recipe, tmp_path, "name=r", "data.batch_frames=110", "data.holdout=1", "train.epochs=2", "train.accumulate=1"
    )
    plan = json.loads((run / "plan.json").read_text())
    overlong = plan["data"]["overlong"]
    assert overlong
    said = capfd.readouterr().err
    assert all(clip in said for clip in overlong)
    clips = [json.loads(line) for line in (run / "data" / "train.jsonl").read_text().splitlines()]
    lengths = {clip["id"]: clip["duration_s"] for clip in clips}
    assert {clip for clip, seconds in lengths.items() if seconds * 24_000 // 256 + 1 > 110} == set(overlong)
    num_used = len(lengths) - len(overlong)
    assert checkpoint(run, 2 * num_used).state["progress"]["clips"] == 2 * num_used
    with pytest.raises((DataError, RecipeError), match="batch_frames"):
        finetune(recipe, tmp_path, "data.batch_frames=20")


# ---------------------------------------------------------------- stopped

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start commands, and let none outlive the test."""
    running: list[subprocess.Popen[str]] = []

    def run(arguments: list[str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        running.append(process)
        return process

    yield run
    for process in running:
        process.kill()
        process.communicate()


def wait_for(condition: Callable[[], bool], *, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_leaves_with_its_code_and_a_checkpoint(
    recipe: Path, tmp_path: Path, started: Callable[..., subprocess.Popen[str]], number: int, code: int
) -> None:
    run = tmp_path / "r"
    long_run = ["train.steps=100000", "eval.every=null", "checkpoint.every=100000"]
    process = started(command("finetune", recipe, "--run-dir", tmp_path, "name=r", *long_run))
    wait_for(lambda: (run / "metrics.jsonl").is_file() and len(metrics(run)) > 3, process=process)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert "saved" in said
    assert f"hint: continue with `ttstrain resume {run}`" in said
    last = int(metrics(run)[-1]["step"])
    assert checkpoint(run, last).meta.step == last
    assert resume(run, [f"train.steps={last + 1}"]) == run
    assert metrics(run)[-1]["step"] == last + 1


WAITING = """
import os, time
from ttstrain.data import audit, cache
def wait(*arguments, **options):
    os.write(1, b"preparing\\n")  # at once: several threads say it
    time.sleep(3)
{function} = wait
from ttstrain.cli.main import main
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "number", "code", "message"),
    [
        ("audit.measure", signal.SIGINT, 130, "error: interrupted\n"),
        ("cache._features", signal.SIGINT, 130, "error: interrupted\n"),
        ("cache._features", signal.SIGTERM, 75, "error: SIGTERM before the first step: there is nothing to save\n"),
    ],
    ids=["Ctrl-C in the audit", "Ctrl-C at the features", "SIGTERM"],
)
def test_a_signal_while_data_are_prepared_leaves_with_its_code(
    tmp_path: Path,
    started: Callable[..., subprocess.Popen[str]],
    *,
    function: str,
    number: int,
    code: int,
    message: str,
) -> None:
    # data of its own: what another test has prepared would not be prepared again
    recipe = write_recipe(tmp_path / "r.yaml", data=write_clips(tmp_path / "speech", count=3))
    cache = f"data.cache_dir={tmp_path / 'cache'}"
    program = WAITING.format(function=function)
    process = started([sys.executable, "-c", program, "finetune", str(recipe), cache, f"run_dir={tmp_path / 'runs'}"])
    assert process.stdout is not None
    assert process.stdout.readline() == "preparing\n"
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == code, said
    assert said.startswith(message)
    assert not (tmp_path / "runs").exists()


def test_ctrl_c_in_the_first_evaluation_still_leaves_a_checkpoint(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = measure.evaluate

    def interrupt(*arguments: Any, **options: Any) -> dict[str, float]:
        signal.raise_signal(signal.SIGINT)
        return evaluate(*arguments, **options)

    monkeypatch.setattr(measure, "evaluate", interrupt)
    with pytest.raises(Interrupted):
        finetune(recipe, tmp_path, "name=r")
    assert pointers.is_checkpoint(tmp_path / "r" / "checkpoints" / "step-00000000")


def test_a_second_ctrl_c_stops_at_once(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = loop.train_step

    def interrupt(run: Any, *arguments: Any, **options: Any) -> Any:
        if run.progress.step == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return step(run, *arguments, **options)

    monkeypatch.setattr(loop, "train_step", interrupt)
    former = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        finetune(recipe, tmp_path, "name=r")
    assert signal.getsignal(signal.SIGINT) is former
    assert metrics(tmp_path / "r")[-1]["step"] == 3


def test_a_metric_that_is_not_measured_is_refused_with_the_folder_that_is_left(tmp_path: Path) -> None:
    wrong = "checkpoint.best=eval/loss/typo"
    done = ttstrain(
        "finetune", "from_scratch", f"run_dir={tmp_path}", "name=a", "train.steps=2", "sample.every=null", wrong
    )
    assert done.returncode == 2, done.stderr
    assert "error: `checkpoint.best` is `eval/loss/typo`" in done.stderr
    hint = done.stderr.rstrip("\n").split("\n")[-1]
    assert hint.startswith("hint: ")
    assert f"`{tmp_path / 'a'}` holds no checkpoint: delete it (`rm -r {tmp_path / 'a'}`)" in hint
    assert not list((tmp_path / "a").glob("checkpoints/step-*"))
