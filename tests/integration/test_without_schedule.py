"""Whole runs with optimizers that need no LR or no schedule: cut, rolled back, restarted, heard and exported."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import checkpoint, cut_off, differences, finetune, metrics, write_clips, write_recipe
from torch import Tensor

from ttstrain.contract.task import Loss
from ttstrain.errors import RecipeError
from ttstrain.export.choose import gather
from ttstrain.families.flow.task import FlowTask
from ttstrain.optim.settings import PACKAGES
from ttstrain.recipe.compose import compose
from ttstrain.runs.new import start
from ttstrain.runs.resume import resume
from ttstrain.train import snapshot

STEPS = 8
KINDS = ("prodigy", "schedule_free_adamw")
LR = "optim/lr/model/default"
FASTER = "optim.d_coef=300"  # so that Prodigy finds more within a few steps
SETTINGS = ("optim.groups=[{name: text, match: ['*text_embed*'], lr_scale: 0.5}]", "optim.schedule.kind=constant")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recipe")
    return write_recipe(root / "r.yaml", data=write_clips(root / "speech"))


@pytest.fixture(scope="module", params=KINDS)
def whole(request: pytest.FixtureRequest, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of each kind."""
    pytest.importorskip(PACKAGES[request.param][0])
    return finetune(recipe, tmp_path_factory.mktemp(request.param), "name=whole", *settings_of(request.param))


def settings_of(kind: str) -> list[str]:
    return [f"optim.kind={kind}", *SETTINGS, *([FASTER] if kind == "prodigy" else [])]


def kind_of(run: Path) -> str:
    return run.parent.name.rstrip("0123456789")


def copied(run: Path, to: Path) -> Path:
    return Path(shutil.copytree(run, to / "copy"))


def test_a_run_that_was_cut_ends_bit_for_bit_as_the_whole(whole: Path, tmp_path: Path) -> None:
    run = cut_off(copied(whole, tmp_path), after=3)
    resume(run, [])
    assert differences(checkpoint(run, STEPS).state, checkpoint(whole, STEPS).state) == []
    assert metrics(run) == metrics(whole)


def test_what_is_logged_is_the_lr_of_each_update_and_each_group(whole: Path) -> None:
    rows = [row for row in metrics(whole) if LR in row]
    factors = [0.1, 0.55, *[1.0] * 6]  # a warmup of two steps from a tenth
    if kind_of(whole) == "schedule_free_adamw":
        assert [row[LR] for row in rows] == pytest.approx([1e-3 * factor for factor in factors])
        assert [row["optim/lr/model/text"] for row in rows] == pytest.approx([5e-4 * factor for factor in factors])
        return
    for step, (row, factor) in enumerate(zip(rows, factors, strict=True)):
        saved = checkpoint(whole, step).state["optimizers"]["model"] if step else {}
        for group, part in (("model/default", "proj_out"), ("model/text", "text_embed")):
            found = next((own["d"] for name, own in saved.items() if part in name), 1e-6)  # before this update
            assert row[f"optim/lr/{group}"] == pytest.approx(found * factor, rel=1e-12)
    assert rows[-1][LR] > rows[2][LR] > 1e-6


def test_a_rollback_puts_back_all_that_the_optimizer_knows(
    recipe: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[int] = []
    losses, restore = FlowTask.losses, snapshot.MemorySnapshots.restore
    seen: list[Any] = []

    def spoiled(self: FlowTask, batch: Any) -> Iterator[Loss]:
        attempts.append(1)
        for loss in losses(self, batch):
            yield replace(loss, value=loss.value * math.nan) if 12 < len(attempts) <= 18 else loss

    def look(self: Any, state: Any) -> None:
        restore(self, state)
        seen.append(state.snapshot())

    monkeypatch.setattr(FlowTask, "losses", spoiled)
    monkeypatch.setattr(snapshot.MemorySnapshots, "restore", look)
    settings = ["guard.examine=0", *settings_of(kind_of(whole))]  # the attempts that are counted are the step's own
    run = finetune(recipe, tmp_path, "name=r", "guard.snapshot_every=4", "guard.lr_factor=0.5", *settings)
    (state,), held = seen, checkpoint(run, 4).state
    for part in ("task", "optimizers", "ema", "progress"):
        assert differences(state[part], held[part]) == [], part
    last = metrics(run)[-1]
    assert last["guard/rollbacks"] == 1
    own = checkpoint(run, STEPS - 1).state["optimizers"]["model"]["transformer.proj_out.weight"]
    peak = own["d"] if kind_of(whole) == "prodigy" else 1e-3
    assert last[LR] == pytest.approx(0.5 * peak)  # a rollback halves the LR


def test_reset_step_restarts_the_warmup_and_keeps_what_was_found(whole: Path, tmp_path: Path) -> None:
    run = copied(whole, tmp_path)
    found = checkpoint(run, STEPS)
    fresh = resume(run, ["train.steps=4"], reset_step=True)
    lrs = [row[LR] for row in metrics(fresh) if LR in row]
    own = found.state["optimizers"]["model"]["transformer.proj_out.weight"]
    peak = own["d"] if kind_of(whole) == "prodigy" else 1e-3
    assert lrs[0] == pytest.approx(0.1 * peak, rel=1e-9)
    counted = checkpoint(fresh, 4).state["optimizers"]["model"]["transformer.proj_out.weight"]
    assert counted["k"] == STEPS + 4  # its own count goes on: of updates, not of the schedule


def test_reset_optimizer_says_when_it_gives_up_the_average(
    whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = copied(whole, tmp_path)
    resume(run, ["train.steps=9"], reset_optimizer=True)
    said = " ".join(capfd.readouterr().err.split())
    assert ("evaluations used averaged weights" in said) == (kind_of(whole) == "schedule_free_adamw")
    assert checkpoint(run, 9).state["optimizers"]["model"]["transformer.proj_out.weight"]["k"] == 1


def test_evaluations_and_samples_leave_the_training_as_it_is_and_use_the_weights_that_are_exported(
    recipe: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[dict[str, Tensor]] = []
    sample = FlowTask.sample

    def look(self: FlowTask, prompt: Any) -> Any:
        heard.append({name: tensor.clone() for name, tensor in self.exported().state_dict().items()})
        return sample(self, prompt)

    monkeypatch.setattr(FlowTask, "sample", look)
    settings = settings_of(kind_of(whole))
    listening = ("sample.every=4", "sample.count=1", "judge.enabled=false", "eval.every=4", "ema.enabled=false")
    run = finetune(recipe, tmp_path, "name=heard", *settings, *listening)
    quiet = finetune(
        recipe, tmp_path, "name=quiet", *settings, "eval.every=null", "ema.enabled=false", "checkpoint.best=null"
    )
    for part in ("task", "optimizers"):
        assert differences(checkpoint(run, STEPS).state[part], checkpoint(quiet, STEPS).state[part]) == [], part
    exported = gather(run / "checkpoints" / f"step-{STEPS:08d}").weights
    assert heard
    assert all(torch.equal(heard[-1][name], tensor) for name, tensor in exported.items())
    raw = checkpoint(run, STEPS).state["task"]
    averaged = any(not torch.equal(tensor, raw[name]) for name, tensor in exported.items())
    assert averaged == (kind_of(whole) == "schedule_free_adamw")


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_package_is_told_before_the_data_are_read(
    recipe: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, install = PACKAGES[kind]  # type: ignore[index]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RecipeError, match=f"`{kind}` needs the package `{package}`") as caught:
        start(compose(recipe, [f"optim.kind={kind}", "data.path=/does/not/exist", f"run_dir={tmp_path}"]))
    assert caught.value.exit_code == 2
    assert install in (caught.value.hint or "")
    assert not list(tmp_path.iterdir())


def test_the_plan_says_which_lr_is_not_used_and_which_schedule_is_not_needed(recipe: Path, tmp_path: Path) -> None:
    from ttstrain.cli.plan import make_plan
    from ttstrain.plan.render import plan_lines

    lines = " ".join(" ".join(plan_lines(make_plan(compose(recipe, ["optim.kind=prodigy"])))).split())
    assert "`optim.lr` 0.001 is not used by `prodigy`" in lines
    assert "× the LR that prodigy finds" in lines
    lines = " ".join(" ".join(plan_lines(make_plan(compose(recipe, ["optim.kind=schedule_free_adamw"])))).split())
    assert "`optim.schedule.kind=constant`" in lines
    lines = " ".join(plan_lines(make_plan(compose(recipe, ["optim.kind=schedule_free_adamw", SETTINGS[1]]))))
    assert "optim.schedule.kind=constant" not in lines.split("note")[-1]
