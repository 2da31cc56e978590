"""A run that was cut and resumed is the run that was never cut; what is not restored is said."""

from __future__ import annotations

import functools
import json
import math
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import (
    checkpoint,
    cut_off,
    differences,
    finetune,
    flat,
    metrics,
    ttstrain,
    write_clips,
    write_recipe,
)

from ttstrain.checkpoint import pointers
from ttstrain.checkpoint.lock import RunBusyError, hold
from ttstrain.errors import CheckpointError, DataError, FolderLostError, Interrupted, Preempted, RecipeError, UserError
from ttstrain.families.flow.task import FlowTask
from ttstrain.recipe.compose import compose
from ttstrain.runs.resume import resume
from ttstrain.tracking import jsonl
from ttstrain.tracking.jsonl import JsonlTracker
from ttstrain.train import loop, measure
from ttstrain.train.run import Run

STEPS = 8
LAST = f"step-{STEPS:08d}"
OVERRIDES = {
    "fp32": ["train.early_stop={patience: 99}"],
    "bf16": ["train.precision=bf16"],
    "fp16": ["train.precision=fp16"],
    "workers": ["data.features=disk", "data.workers=2"],
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recipe")
    return write_recipe(root / "r.yaml", data=write_clips(root / "speech"))


@pytest.fixture(scope="module")
def finished(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return an uninterrupted run, made once for each way to train; it keeps a checkpoint of every step.

    That of fp32 is made here, before a test can have replaced a part of the trainer: any test may be the first.
    """

    @functools.cache
    def find(kind: str) -> Path:
        return finetune(recipe, tmp_path_factory.mktemp(kind), "name=whole", *OVERRIDES[kind])

    find("fp32")
    return find


@pytest.fixture
def copied(finished: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    return lambda kind="fp32": Path(shutil.copytree(finished(kind), tmp_path / "copy"))


@pytest.fixture
def stopped_short(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Stop where training would begin, and hand the runs over as they would have begun."""
    runs: list[Run] = []

    def look(run: Run, *_: object) -> str:
        runs.append(run)
        return "done"

    for start in ("new", "resume"):
        monkeypatch.setattr(f"ttstrain.runs.{start}.train", look)
    return runs


def assert_equal_ends(run: Path, whole: Path) -> None:
    mine, theirs = checkpoint(run, STEPS), checkpoint(whole, STEPS)
    assert set(mine.state) >= {"task", "ema", "optimizers", "loader", "progress", "guard", "best"}
    assert differences(mine.state, theirs.state) == []
    assert differences(mine.per_rank, theirs.per_rank) == []
    assert mine.meta.files == theirs.meta.files
    assert metrics(run) == metrics(whole)
    for pointer in ("last", "best"):
        assert (run / "checkpoints" / pointer).read_text() == (whole / "checkpoints" / pointer).read_text()


# ---------------------------------------------------------------- exactly


@pytest.mark.parametrize("cut", range(1, STEPS))
@pytest.mark.parametrize("kind", ["fp32", "bf16", "fp16"])
def test_a_run_cut_after_any_step_ends_bit_for_bit_as_the_whole(
    copied: Callable[[str], Path], finished: Callable[[str], Path], kind: str, cut: int
) -> None:
    run = cut_off(copied(kind), after=cut)
    assert resume(run, []) == run
    assert_equal_ends(run, finished(kind))


@pytest.mark.slow
def test_worker_processes_change_nothing_and_resume_exactly(
    copied: Callable[[str], Path], finished: Callable[[str], Path]
) -> None:
    whole = finished("workers")
    alone = checkpoint(finished("fp32"), STEPS).state
    alone.pop("early_stop")
    assert differences(checkpoint(whole, STEPS).state, alone) == []
    run = cut_off(copied("workers"), after=3)
    resume(run, [])
    assert_equal_ends(run, whole)


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs a signal that stops a process")
def test_a_run_whose_worker_hangs_is_saved_and_goes_on(
    recipe: Path, finished: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ttstrain.data import pool
    from ttstrain.train import loop

    step = loop.train_step

    def step_and_stop_the_worker(run: Run, *arguments: Any, **options: Any) -> Any:
        report = step(run, *arguments, **options)
        if report.step == 2:
            assert run.loader._pool is not None
            for pid in run.loader._pool.pids():
                os.kill(pid, signal.SIGSTOP)  # it does nothing any more, as one that waits for a drive that is gone
            patch.setattr(pool, "STALLED_S", 0.2)
        return report

    settings = ["data.features=disk", "data.workers=1", f"data.cache_dir={tmp_path / 'cache'}"]
    with monkeypatch.context() as patch, pytest.raises(DataError, match="could not be loaded: nothing has come"):
        patch.setattr(loop, "train_step", step_and_stop_the_worker)
        finetune(recipe, tmp_path, "name=cut", *OVERRIDES["fp32"], "checkpoint.every=100", *settings)
    run = tmp_path / "cut"
    reached = int(metrics(run)[-1]["step"])
    assert 2 <= reached < STEPS
    assert (run / "checkpoints" / "last").read_text() == f"step-{reached:08d}\n"
    resume(run, ["data.workers=0"])
    whole = finished("fp32")
    assert differences(_without_best(checkpoint(run, STEPS).state), _without_best(checkpoint(whole, STEPS).state)) == []
    assert metrics(run) == metrics(whole)


@pytest.mark.parametrize(
    ("ask", "raised"),
    [
        (lambda run: (run / "STOP").touch(), None),
        (lambda run: signal.raise_signal(signal.SIGINT), Interrupted),
        (lambda run: signal.raise_signal(signal.SIGTERM), Preempted),
    ],
    ids=["STOP", "Ctrl-C", "SIGTERM"],
)
def test_a_run_that_was_told_to_leave_goes_on_as_if_it_had_not(
    recipe: Path,
    finished: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    ask: Callable[[Path], Any],
    raised: type[UserError] | None,
) -> None:
    monkeypatch.setattr("ttstrain.train.signals.POLL_S", 0.0)
    run = tmp_path / "cut"
    log = JsonlTracker.log

    def log_and_ask(self: JsonlTracker, step: int, values: Mapping[str, float]) -> None:
        log(self, step, values)
        if step == 4 and "train/loss/model" in values:  # before its evaluation, which a signal leaves no time for
            ask(run)

    with monkeypatch.context() as patch:
        patch.setattr(JsonlTracker, "log", log_and_ask)
        arguments = ["name=cut", *OVERRIDES["fp32"], f"checkpoint.every={STEPS}", "checkpoint.best=null"]
        if raised is None:
            finetune(recipe, tmp_path, *arguments)
        else:
            with pytest.raises(raised) as caught:
                finetune(recipe, tmp_path, *arguments)
            assert f"ttstrain resume {run}" in str(caught.value.hint)
    assert [folder.name for folder in sorted((run / "checkpoints").glob("step-*"))] == ["step-00000004"]
    assert metrics(run)[-1]["step"] == 4
    assert ("eval/loss/total" in metrics(run)[-1]) == (raised is None)
    resume(run, [])
    whole = finished("fp32")
    assert differences(_without_best(checkpoint(run, STEPS).state), _without_best(checkpoint(whole, STEPS).state)) == []
    assert metrics(run) == metrics(whole)


def _without_best(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tree for name, tree in state.items() if name != "best"}


def ask_in_the_last_step(patch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    step = loop.train_step

    def step_and_ask(run: Run, *arguments: Any, **options: Any) -> Any:
        report = step(run, *arguments, **options)
        if report.step == STEPS:
            signal.raise_signal(number)
        return report

    patch.setattr(loop, "train_step", step_and_ask)


def saved_before_evaluations(patch: pytest.MonkeyPatch, then: Callable[[], object] = lambda: None) -> list[int]:
    """Collect, at each evaluation, the step of `last`; `then` comes in the middle of an evaluation of the last step."""
    evaluate, saved = FlowTask.evaluate, []

    def looked(self: FlowTask, *arguments: Any) -> Any:
        values = evaluate(self, *arguments)
        if saved[-1] == STEPS:
            then()
        return values

    def noted(run: Run, *arguments: Any, **options: Any) -> Any:
        last = run.store.last()
        saved.append(-1 if last is None else pointers.step_of(last))
        return measured(run, *arguments, **options)

    measured = measure.evaluate
    patch.setattr(FlowTask, "evaluate", looked)
    patch.setattr(measure, "evaluate", noted)
    return saved


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_asked_to_leave_at_its_last_step_is_saved_and_then_evaluated(
    recipe: Path,
    finished: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    with monkeypatch.context() as patch:
        ask_in_the_last_step(patch, number)
        saved = saved_before_evaluations(patch)
        run = finetune(recipe, tmp_path, "name=run", *OVERRIDES["fp32"])
    assert saved[-1] == STEPS  # the state was on disk first
    whole = finished("fp32")
    assert_equal_ends(run, whole)
    assert checkpoint(run, STEPS).meta.metrics == checkpoint(whole, STEPS).meta.metrics != {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_leaves_the_last_evaluation_to_a_resume(
    recipe: Path,
    finished: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    *,
    number: signal.Signals,
) -> None:
    with monkeypatch.context() as patch:
        ask_in_the_last_step(patch, number)
        saved_before_evaluations(patch, then=lambda: signal.raise_signal(number))
        run = finetune(recipe, tmp_path, "name=run", *OVERRIDES["fp32"])
    assert "the evaluation; `ttstrain resume` runs it" in " ".join(capfd.readouterr().err.split())
    assert (run / "checkpoints" / "last").read_text().strip() == LAST
    assert "eval/loss/total" not in metrics(run)[-1]
    resume(run, [])
    assert_equal_ends(run, finished("fp32"))
    with pytest.raises(RecipeError, match="this run has ended"):
        resume(run, [])


def test_an_early_stop_comes_when_it_would_have_come(recipe: Path, tmp_path: Path) -> None:
    arguments = ["name=run", "eval.every=1", "train.early_stop={patience: 2}", "optim.lr=0.1", "train.steps=30"]
    whole = finetune(recipe, tmp_path / "whole", *arguments)
    stopped = int(metrics(whole)[-1]["step"])
    assert 3 <= stopped < 30
    for cut in (1, stopped - 1):
        run = cut_off(Path(shutil.copytree(whole, tmp_path / f"cut-{cut}")), after=cut)
        resume(run, [])
        assert metrics(run) == metrics(whole)
        assert differences(checkpoint(run, stopped).state, checkpoint(whole, stopped).state) == []


# ---------------------------------------------------------------- otherwise, and it says so


def test_a_run_with_relative_paths_is_resumed_from_any_directory(
    finished: Callable[[str], Path], recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Path(compose(recipe).values["data"]["path"])
    home, elsewhere = data.parent, tmp_path / "elsewhere"
    (elsewhere / data.name).mkdir(parents=True)  # what must not be mistaken for the run's recordings
    monkeypatch.chdir(home)
    run = cut_off(
        finetune(recipe, tmp_path / "runs", f"data.path={data.name}", "name=whole", *OVERRIDES["fp32"]), after=3
    )
    monkeypatch.chdir(elsewhere)
    resume(run, [])
    assert_equal_ends(run, finished("fp32"))


def test_reset_step_starts_the_schedule_again_and_keeps_what_was_learnt(
    copied: Callable[[str], Path], stopped_short: list[Run], capfd: pytest.CaptureFixture[str]
) -> None:
    run = copied()
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    fresh = resume(run, [], reset_step=True)
    assert fresh == run.with_name("copy-reset")
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    held, saved = stopped_short[0].state.snapshot(), checkpoint(run, STEPS).state
    for part in ("task", "optimizers", "ema", "loader", "guard", "precision"):
        assert differences(held[part], saved[part]) == [], part
    assert set(flat(held["progress"]).values()) == {0}
    assert held["best"]["step"] is None
    assert held["early_stop"] == {"best": None, "num_bad": 0, "metric": "eval/loss/total"}
    said = capfd.readouterr().err.replace("\n", " ")
    assert "continues from step-00000008" in said
    assert "FROM SCRATCH" not in said
    assert "kept weights, optimizer state, loss scale, guard, place in the data, random numbers, EMA weights" in said
    assert "reset: step and LR, best loss, early stop" in said


def test_the_schedule_after_reset_step_is_the_first_one_again(copied: Callable[[str], Path]) -> None:
    run = copied()
    fresh = resume(run, ["train.steps=6"], reset_step=True)
    lrs = [row["optim/lr/model/default"] for row in metrics(fresh) if row["step"] > 0]
    assert lrs == pytest.approx([cosine(step, total=6) for step in range(6)], rel=1e-12)
    assert resume(run, ["train.steps=6"], reset_step=True) == run.with_name("copy-reset-2")
    assert resume(fresh, ["train.steps=6"], reset_step=True) == run.with_name("copy-reset-3")


def test_reset_optimizer_drops_the_moments_alone(
    copied: Callable[[str], Path], stopped_short: list[Run], capfd: pytest.CaptureFixture[str]
) -> None:
    run = cut_off(copied(), after=5)
    assert resume(run, [], reset_optimizer=True) == run
    held, saved = stopped_short[0].state.snapshot(), checkpoint(run, 5).state
    assert flat(held["optimizers"]) == {}
    assert flat(saved["optimizers"]) != {}
    assert {part for part in saved if differences(held[part], saved[part])} == {"optimizers"}
    assert "reset: optimizer state" in capfd.readouterr().err


def test_a_longer_run_goes_on_under_the_longer_schedule(copied: Callable[[str], Path]) -> None:
    run = copied()
    before = metrics(run)
    resume(run, ["train.steps=12"])
    rows = metrics(run)
    assert rows[: len(before)] == before
    lrs = {int(row["step"]): row["optim/lr/model/default"] for row in rows[len(before) :]}
    assert lrs == pytest.approx({step + 1: cosine(step, total=12) for step in range(8, 12)}, rel=1e-12)


def test_from_best_goes_on_from_there(copied: Callable[[str], Path], finished: Callable[[str], Path]) -> None:
    run = copied()
    (run / "checkpoints" / "best").write_text("step-00000004\n")
    resume(run, [], checkpoint=Path("best"))
    assert_equal_ends(run, finished("fp32"))


def test_the_best_of_an_abandoned_branch_is_not_called_best(copied: Callable[[str], Path]) -> None:
    run = copied()
    ruined = ["optim.lr=0.1", "optim.schedule.kind=constant", "train.steps=5", "eval.every=5"]
    resume(run, ruined, checkpoint=Path("step-00000004"))
    assert min(row["eval/loss/total"] for row in metrics(run, after=4) if "eval/loss/total" in row) > 6  # ruined
    assert (run / "checkpoints" / "best").read_text() == "step-00000004\n"


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(
    recipe: Path, finished: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("ttstrain.train.checkpointing.save", die)
        finetune(recipe, tmp_path, "name=whole", *OVERRIDES["fp32"])
    run = tmp_path / "whole"
    with pytest.raises(RecipeError, match="exists already") as caught:
        finetune(recipe, tmp_path, "name=whole")
    assert f"`ttstrain resume {run}`" in str(caught.value.hint)
    assert resume(run, []) == run
    assert_equal_ends(run, finished("fp32"))
    assert metrics_of(run / "metrics.1.jsonl") == [0, 1]
    commands = [json.loads((run / "sessions" / name / "env.json").read_text()) for name in ("0001", "0002")]
    assert commands[0]["run_id"] == commands[1]["run_id"]
    assert {path.name for path in (run / "sessions" / "0002").iterdir()} == {"env.json", "plan.json", "recipe.yaml"}


def metrics_of(file: Path) -> list[float]:
    return [row["step"] for row in jsonl.read(file)]


def test_a_base_whose_run_goes_on_while_the_data_are_prepared_is_read_as_it_is_then(
    recipe: Path, copied: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ttstrain.runs import new

    base, prepare = copied(), new.prepare
    (base / "checkpoints" / "best").write_text("step-00000004\n")

    def prepare_meanwhile(*arguments: Any, **options: Any) -> Any:
        (base / "checkpoints" / "best").write_text("step-00000006\n")
        shutil.rmtree(base / "checkpoints" / "step-00000004")
        return prepare(*arguments, **options)

    monkeypatch.setattr(new, "prepare", prepare_meanwhile)
    settings = ["train.steps=1", "optim.lr=1e-9", "optim.schedule.warmup_steps=0", "ema.enabled=false"]
    run = finetune(recipe, tmp_path, "name=run", f"base={base}", *settings)
    mine, theirs = checkpoint(run, 1).state["task"], checkpoint(base, 6).state["task"]
    assert all(torch.allclose(mine[name], theirs[name], atol=1e-6) for name in theirs)


def test_a_course_that_was_left_is_left_for_good_though_it_saved_nothing(
    copied: Callable[[str], Path], finished: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Killed

    run, whole = copied(), finished("fp32")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("ttstrain.train.checkpointing.save", die)
        resume(run, ["optim.lr=1e-4"], checkpoint=Path("step-00000004"))
    assert (run / "checkpoints" / "best").read_text() == (whole / "checkpoints" / "best").read_text()
    assert jsonl.read(run / "metrics.1.jsonl") == jsonl.read(whole / "metrics.jsonl")
    shutil.copytree(run, run.with_name("back"))
    resume(run, [])
    assert metrics(run, after=4)[0]["optim/lr/model/default"] == pytest.approx(cosine(4, total=8) / 10, rel=1e-12)
    resume(run.with_name("back"), ["optim.lr=1e-3"], checkpoint=Path("step-00000007"))  # the course that was left
    assert metrics(run.with_name("back")) == metrics(whole)


@pytest.mark.parametrize("snapshot", ["memory", "disk"])  # which cannot be written any more
@pytest.mark.parametrize("change", [shutil.rmtree, lambda run: run.rename(run.with_name("renamed"))])
def test_a_run_whose_folder_goes_ends_at_once_and_saves_itself_beside(
    recipe: Path,
    finished: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    change: Callable[[Path], object],
    snapshot: str,
) -> None:
    step, run = loop.train_step, tmp_path / "whole"

    def step_and_change(*arguments: Any, **options: Any) -> Any:
        report = step(*arguments, **options)
        if report.step == 3:
            change(run)
        return report

    monkeypatch.setattr(loop, "train_step", step_and_change)
    settings = ["checkpoint.every=1000", "eval.every=1000", f"guard.snapshot={snapshot}"]
    with pytest.raises(FolderLostError, match="removed or renamed") as caught:
        finetune(recipe, tmp_path, "name=whole", *OVERRIDES["fp32"], *settings)
    beside = tmp_path / "whole-rescued"
    assert f"`ttstrain resume {beside}`" in str(caught.value.hint)
    monkeypatch.setattr(loop, "train_step", step)
    resume(beside, ["checkpoint.every=1", "eval.every=2"])
    saved = _without_best(checkpoint(beside, STEPS).state)
    assert differences(saved, _without_best(checkpoint(finished("fp32"), STEPS).state)) == []


def test_an_average_or_early_stop_asked_for_later_starts_there(
    recipe: Path, tmp_path: Path, stopped_short: list[Run], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ttstrain.runs.new.train", loop.train)
        run = finetune(recipe, tmp_path, "name=run", "ema.enabled=false", "train.steps=4")
    resume(run, ["train.steps=8", "ema.enabled=true", "train.early_stop={patience: 2}"])
    held = stopped_short[0].state.snapshot()
    assert differences(held["ema"]["weights"], held["task"]) == []
    assert "reset: EMA weights, early stop" in capfd.readouterr().err.replace("\n", " ")


# ---------------------------------------------------------------- refused


def test_a_run_that_has_ended_is_refused_with_three_ways_out(finished: Callable[[str], Path]) -> None:
    done = ttstrain("resume", finished("fp32"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: this run has ended: its schedule has 8 steps and the run is at step 8")
    assert "LR 0.0001 for `model/default`" in done.stderr
    for way in ("--reset-step", "train.steps=16", "optim.schedule.kind=constant"):
        assert way in done.stderr


def flip_a_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)


def cut_in_half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flip_a_byte, cut_in_half, Path.unlink])
@pytest.mark.parametrize("name", ["weights.safetensors", "optimizers.safetensors", "loader.json", "rank-0000.json"])
def test_a_damaged_checkpoint_is_refused_by_the_name_of_its_file(
    copied: Callable[[str], Path], name: str, damage: Callable[[Path], None]
) -> None:
    run = cut_off(copied(), after=5)
    damage(run / "checkpoints" / "step-00000005" / name)
    with pytest.raises(CheckpointError, match=rf"step-00000005/{name}") as caught:
        resume(run, [])
    assert caught.value.exit_code == 4
    shutil.rmtree(run / "checkpoints" / "step-00000005")
    cut_off(run, after=4)
    resume(run, [])  # what the error advises


def test_a_damaged_checkpoint_leaves_with_4(copied: Callable[[str], Path]) -> None:
    run = cut_off(copied(), after=5)
    flip_a_byte(run / "checkpoints" / "step-00000005" / "weights.safetensors")
    done = ttstrain("resume", run)
    assert done.returncode == 4
    assert done.stderr.startswith("error: ")
    assert "weights.safetensors" in done.stderr
    assert "\nhint: " in done.stderr


@pytest.mark.parametrize("reset_step", [False, True])
def test_a_refused_resume_changes_nothing(copied: Callable[[str], Path], reset_step: bool) -> None:
    run = cut_off(copied(), after=5)
    before = {path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match="does not fit"):
        resume(run, ["model.depth=2"], reset_step=reset_step)
    assert {path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert [path.name for path in run.parent.iterdir()] == ["copy"]
    resume(run, [])


def test_a_run_without_a_checkpoint_and_a_path_that_is_none_are_refused(
    copied: Callable[[str], Path], tmp_path: Path
) -> None:
    run = copied()
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(CheckpointError, match="are missing: it was at step 8"):
        resume(run, [])
    with pytest.raises(RecipeError, match="does not exist"):
        resume(tmp_path / "nowhere", [])


def test_a_run_that_another_process_writes_into_is_left_alone(copied: Callable[[str], Path]) -> None:
    run = cut_off(copied(), after=5)
    before = {path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with hold(run), pytest.raises(RunBusyError):
        resume(run, [])
    assert {path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_run_that_died_between_two_renames_of_a_save_goes_on(
    copied: Callable[[str], Path], finished: Callable[[str], Path]
) -> None:
    run = cut_off(copied(), after=5)
    (run / "checkpoints" / "step-00000005").rename(run / "checkpoints" / ".step-00000005.old")
    resume(run, [])
    assert_equal_ends(run, finished("fp32"))


# ---------------------------------------------------------------- upstream's files

TRAINING = {"full": "model_10.pt", "old_step_style": "old_step_style/model_10.pt"}
AVERAGES = {"ema_only_pt": "ema_only/model_10.pt", "ema_only_safetensors": "ema_only/model_10.safetensors"}


@pytest.fixture
def upstream_recipe(recipe: Path, fixtures_dir: Path, tmp_path: Path) -> Path:
    """Write a recipe of the net that upstream's files hold."""
    trace = json.loads((fixtures_dir / "f5_train_trace" / "config.json").read_text())
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in trace["vocab"]))
    model = {key: value for key, value in trace["arch"].items() if key != "mel_dim"}
    model |= {"tokenizer": "custom", "vocab": str(tmp_path / "vocab.txt"), "max_unknown": 1.0}
    text = recipe.read_text()
    head, _, tail = text.partition("model:")
    return write_recipe(
        tmp_path / "upstream.yaml", data=Path(), text=f"{head}model: {json.dumps(model)}\ndata:{tail.split('data:')[1]}"
    )


def upstream_state(file: Path) -> Any:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return {"ema_model_state_dict": load_file(file)}
    return torch.load(file, weights_only=True)


def averaged(state: Any) -> dict[str, torch.Tensor]:
    prefix = "ema_model."
    return {
        key.removeprefix(prefix): tensor
        for key, tensor in state["ema_model_state_dict"].items()
        if key.startswith(prefix) and ".mel_stft." not in key
    }


def trained(state: Any) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in state["model_state_dict"].items() if ".mel_stft." not in key}


@pytest.mark.parametrize("reset_step", [False, True])
@pytest.mark.parametrize("name", TRAINING)
def test_an_upstream_training_file_is_resumed(
    fixtures_dir: Path,
    upstream_recipe: Path,
    tmp_path: Path,
    stopped_short: list[Run],
    capfd: pytest.CaptureFixture[str],
    *,
    name: str,
    reset_step: bool,
) -> None:
    file = fixtures_dir / "f5_ckpt_layouts" / TRAINING[name]
    overrides = ["train.steps=40", f"run_dir={tmp_path / 'runs'}"]
    resume(file, overrides, recipe=str(upstream_recipe), reset_step=reset_step)
    (run,), theirs = stopped_short, upstream_state(file)
    held = run.state.snapshot()
    assert differences(held["task"], trained(theirs)) == []
    assert differences(held["ema"]["weights"], averaged(theirs)) == []
    parameters = [name for name, _ in run.task.named_parameters()]
    moments = theirs["optimizer_state_dict"]["state"]
    assert len(moments) == len(parameters)
    for index, parameter in enumerate(parameters):
        mine = held["optimizers"]["model"][parameter]
        assert float(mine["step"]) == 10
        assert torch.equal(mine["exp_avg"], moments[index]["exp_avg"])
        assert torch.equal(mine["exp_avg_sq"], moments[index]["exp_avg_sq"])
    assert run.progress.step == (0 if reset_step else 10)
    said = capfd.readouterr().err.replace("\n", " ")
    assert "weights, EMA weights, optimizer state" in said
    assert ("reset: place in the data, random numbers, step" if reset_step else "optimizer state, step 10") in said


def test_a_resumed_upstream_run_trains_at_the_recipes_lr_and_is_resumed_as_ours(
    fixtures_dir: Path, upstream_recipe: Path, tmp_path: Path
) -> None:
    file = fixtures_dir / "f5_ckpt_layouts" / TRAINING["full"]
    run = resume(file, ["train.steps=14", f"run_dir={tmp_path / 'runs'}", "name=ours"], recipe=str(upstream_recipe))
    rows = metrics(run)
    assert [row["step"] for row in rows] == [11, 12, 13, 14]
    assert [row["optim/lr/model/default"] for row in rows] == pytest.approx(
        [cosine(step, total=14) for step in range(10, 14)], rel=1e-12
    )
    whole = shutil.copytree(run, tmp_path / "whole")
    resume(run, [], checkpoint=Path("step-00000012"))
    assert differences(checkpoint(run, 14).state, checkpoint(Path(whole), 14).state) == []
    assert metrics(run) == metrics(Path(whole))


@pytest.mark.parametrize("name", [*TRAINING, *AVERAGES])
def test_every_upstream_file_is_a_base(
    fixtures_dir: Path, upstream_recipe: Path, tmp_path: Path, stopped_short: list[Run], name: str
) -> None:
    file = fixtures_dir / "f5_ckpt_layouts" / {**TRAINING, **AVERAGES}[name]
    finetune(upstream_recipe, tmp_path / "runs", f"base={file}")
    (run,), theirs = stopped_short, upstream_state(file)
    weights = trained(theirs) if name in TRAINING else averaged(theirs)
    held = run.state.snapshot()
    assert differences(held["task"], weights) == []
    assert differences(held["ema"]["weights"], weights) == []
    assert (run.progress.step, flat(held["optimizers"])) == (0, {})


@pytest.mark.parametrize("name", AVERAGES)
def test_a_published_file_is_no_run_to_resume(fixtures_dir: Path, upstream_recipe: Path, name: str) -> None:
    file = fixtures_dir / "f5_ckpt_layouts" / AVERAGES[name]
    with pytest.raises(CheckpointError, match="no training checkpoint") as caught:
        resume(file, [], recipe=str(upstream_recipe))
    assert f"--base {file}" in str(caught.value.hint)


def test_an_upstream_file_needs_a_recipe_and_its_own_net(fixtures_dir: Path, recipe: Path, tmp_path: Path) -> None:
    file = fixtures_dir / "f5_ckpt_layouts" / TRAINING["full"]
    with pytest.raises(RecipeError, match="name the recipe"):
        resume(file, [])
    with pytest.raises(CheckpointError, match="dim: 16 in the file, 32 in the recipe"):
        resume(file, ["train.steps=40", f"run_dir={tmp_path / 'runs'}"], recipe=str(recipe))
    assert not list(tmp_path.glob("runs/*/*"))


def test_an_upstream_file_goes_on_with_its_own_symbols_only(
    fixtures_dir: Path, upstream_recipe: Path, tmp_path: Path
) -> None:
    """Another order of the same symbols has the same shapes, and would read every text as another."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    file = Path(shutil.copy(fixtures_dir / "f5_ckpt_layouts" / TRAINING["full"], folder))
    tokens = (tmp_path / "vocab.txt").read_text().split("\n")[:-1]
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in [tokens[0], *tokens[:0:-1]]))
    with pytest.raises(CheckpointError, match="trained with another vocabulary"):
        resume(file, ["train.steps=40", f"run_dir={tmp_path / 'runs'}"], recipe=str(upstream_recipe))
    assert not list(tmp_path.glob("runs/*/*"))


def cosine(step: int, *, total: int, peak: float = 1e-3, warmup: int = 2, end: float = 0.1) -> float:
    """Write the recipe's schedule down a second time."""
    if step < warmup:
        return peak * (0.1 + 0.9 * step / warmup)
    share = (step - warmup) / (total - 1 - warmup)
    return peak * (end + (1 - end) * 0.5 * (1 + math.cos(math.pi * share)))
