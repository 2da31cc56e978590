"""Injected faults in whole runs; `scripts/reliability.py` tries all of them in every task."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from small_runs import checkpoint, differences, finetune, metrics, ttstrain

from ttstrain.checkpoint import store
from ttstrain.errors import CheckpointError, Preempted
from ttstrain.runs.resume import resume
from ttstrain.tensors.finite import non_finite
from ttstrain.train import inject, loop
from ttstrain.train.run import Run
from ttstrain.train.snapshot import STAYS, MemorySnapshots

FAULTS = ["nan_loss@2", "oom@3", "inf_grad@4"]
BACK_EVERY_TIME = "guard={max_skips: 1, snapshot_every: 1}"


def asked(*faults: str) -> str:
    return f"debug.inject={json.dumps(faults)}"


def incidents(run: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((run / "incidents").iterdir())]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_goes_back_bit_for_bit_and_keeps_finite_values_only(
    recipe: Path, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore, back = MemorySnapshots.restore, []

    def look(self: MemorySnapshots, state: Any) -> None:
        restore(self, state)
        back.append((self.step, state.snapshot()))

    monkeypatch.setattr(MemorySnapshots, "restore", look)
    run = finetune(recipe, tmp_path, "name=r", BACK_EVERY_TIME, f"train.precision={precision}", asked(*FAULTS))
    entered = [json.loads(line)["fault"] for line in (run / inject.RECORD).read_text().splitlines()]
    assert entered == FAULTS
    assert {incident["kind"] for incident in incidents(run)} == {
        *("non_finite_loss", "non_finite_gradient", "out_of_memory")
    }
    assert {incident["finding"]["cause"] for incident in incidents(run) if incident["finding"]} == {"not repeatable"}
    assert [step for step, _ in back] == [1, 3]
    for step, state in back:
        held = checkpoint(run, step).state
        for part in set(state) - STAYS:
            assert differences(state[part], held[part]) == [], (step, part)
    for step in range(1, 9):
        assert non_finite(checkpoint(run, step).state) == []
    assert "not for use" in checkpoint(run, 5).meta.notes[0]
    assert json.loads((run / "env.json").read_text())["injected_faults"] == FAULTS
    assert metrics(run)[-1]["debug/injected"] == 3


def test_a_run_that_must_leave_first_tries_a_refused_batch_once_more(recipe: Path, tmp_path: Path) -> None:
    whole = finetune(recipe, tmp_path / "whole", "name=r", asked("inf_grad@3"))
    with pytest.raises(Preempted, match="after step 3"):
        finetune(recipe, tmp_path, "name=r", asked("inf_grad@3", "sigterm@3"))
    assert differences(checkpoint(resume(tmp_path / "r", []), 8).state, checkpoint(whole, 8).state) == []


def test_a_bad_clip_is_named_by_the_incident_and_left_out_alone(recipe: Path, tmp_path: Path) -> None:
    run = finetune(recipe, tmp_path, "name=r", "train.steps=16", "data.batch_frames=250", asked("bad_clip@5"))
    (bad,) = (json.loads(line)["clips"] for line in (run / inject.RECORD).read_text().splitlines())
    found = [incident["finding"] for incident in incidents(run) if incident["finding"]]
    assert {(one["cause"], tuple(one["clips"])) for one in found} == {("data", tuple(bad))}
    assert len(incidents(run)[0]["clips"]) > 1
    assert checkpoint(run, 16).state["loader"]["excluded"] == bad


def test_a_bad_clip_is_left_out_where_every_refusal_rolls_back(recipe: Path, tmp_path: Path) -> None:
    settings = ["train.steps=24", "data.batch_frames=250", "guard={max_skips: 1, snapshot_every: 1}"]
    run = finetune(recipe, tmp_path, "name=r", *settings, asked("bad_clip@5"))
    (bad,) = (json.loads(line)["clips"] for line in (run / inject.RECORD).read_text().splitlines())
    assert [incident["action"] for incident in incidents(run)] == ["rollback"] * 2
    assert checkpoint(run, 24).state["loader"]["excluded"] == bad


@pytest.mark.parametrize("background", ["true", "false"])
def test_a_run_goes_on_after_a_save_that_failed_and_ends_as_if_it_had_not(
    recipe: Path, tmp_path: Path, background: str
) -> None:
    settings = [f"checkpoint.background={background}", "checkpoint.every=2", "train.accumulate=1"]
    whole = finetune(recipe, tmp_path, "name=whole", *settings)
    run = finetune(recipe, tmp_path, "name=r", *settings, asked("disk_full@3", "disk_full@8"))
    saved = sorted(path.name for path in (run / "checkpoints").glob("step-*"))
    assert saved == ["step-00000002", "step-00000006", "step-00000008"]
    first, last = incidents(run)
    assert {first["kind"], last["kind"]} == {"failed_save"}
    assert first["action"] == "go on"
    assert "No space left on device" in first["notes"][0]
    assert "step-00000002 is its last" in first["notes"][-1]
    assert differences(checkpoint(run, 8).state, checkpoint(whole, 8).state) == []
    without = [{key: value for key, value in row.items() if key != "debug/injected"} for row in metrics(run)]
    assert without == metrics(whole)


def test_a_bad_clip_of_every_batch_is_left_out(recipe: Path, tmp_path: Path) -> None:
    settings = ["train.accumulate=1", "data.batch_frames=2000", "eval.every=null"]
    run = finetune(recipe, tmp_path, "name=r", *settings, asked("bad_clip@5"))
    (bad,) = (json.loads(line)["clips"] for line in (run / inject.RECORD).read_text().splitlines())
    assert sorted(incident["action"] for incident in incidents(run)) == ["rollback"] * 2 + ["skip"] * 4
    assert checkpoint(run, 8).state["loader"]["excluded"] == bad


def test_the_best_of_a_failed_save_is_the_best_no_longer(recipe: Path, tmp_path: Path) -> None:
    settings = ["train.steps=6", "optim.lr=0.1", "optim.schedule.kind=constant", "eval.every=1"]  # it soon grows worse
    whole = finetune(recipe, tmp_path, "name=whole", *settings)
    losses = {int(row["step"]): row["eval/loss/total"] for row in metrics(whole) if row["step"] > 0}
    best = min(losses, key=losses.__getitem__)
    run = finetune(recipe, tmp_path, "name=r", *settings, asked(f"disk_full@{best}"))
    del losses[best]
    second = min(losses, key=losses.__getitem__)
    named = (run / "checkpoints" / "best").read_text().strip()
    assert named == f"step-{second:08d}"
    assert checkpoint(run, 6).state["best"]["step"] == second


def test_a_base_that_stays_best_does_so_after_a_failed_save(recipe: Path, tmp_path: Path) -> None:
    settings = ["optim.lr=0.1", "optim.schedule.kind=constant", "eval.every=4"]
    run = finetune(recipe, tmp_path, "name=r", *settings, asked("disk_full@4"))
    losses = {row["step"]: row["eval/loss/total"] for row in metrics(run) if "eval/loss/total" in row}
    assert min(losses, key=losses.__getitem__) == 0
    assert checkpoint(run, 8).state["best"]["step"] == 0
    assert not (run / "checkpoints" / "best").exists()


def test_a_disk_that_stays_full_ends_the_run_with_its_last_checkpoint_named(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = store.tensorfile.write

    def full(path: Path, *arguments: Any, **options: Any) -> Any:
        if "step-00000002" not in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, *arguments, **options)

    monkeypatch.setattr(store.tensorfile, "write", full)
    with pytest.raises(CheckpointError, match="step-00000008` could not be written: No space left"):
        finetune(recipe, tmp_path, "name=r", "checkpoint.every=2")
    run = tmp_path / "r"
    assert [row["step"] for row in metrics(run)][-1] == 8
    assert (run / "checkpoints" / "last").read_text() == "step-00000002\n"
    assert len(incidents(run)) == 3
    monkeypatch.undo()
    whole = finetune(recipe, tmp_path, "name=whole", "checkpoint.every=2")
    resume(run, [])
    assert differences(checkpoint(run, 8).state, checkpoint(whole, 8).state) == []


def test_an_examination_changes_no_number(recipe: Path, tmp_path: Path) -> None:
    faults = asked("nan_loss@3", "inf_grad@6")
    one, other = (
        finetune(recipe, tmp_path, f"name={name}", f"guard.examine={number}", faults)
        for name, number in (("a", 20), ("b", 0))
    )
    assert [incident["finding"] is None for incident in incidents(one) + incidents(other)] == [False] * 2 + [True] * 2
    states = [checkpoint(run, 8).state for run in (one, other)]
    states[0]["guard"].pop("examined")
    assert differences(*states) == []
    assert metrics(one) == metrics(other)


def test_a_slow_disk_leaves_the_last_checkpoint_at_most_one_save_behind(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind: list[int] = []
    save, log_step = store.save, loop.log_step

    def slow(*arguments: Any, **options: Any) -> Any:
        time.sleep(0.4)  # longer than some steps of this net
        return save(*arguments, **options)

    def look(run: Run, taken: Any) -> None:
        last, step = run.store.last(), run.progress.step
        behind.append(step - step % 2 - (0 if last is None else int(last.name[-8:])))
        log_step(run, taken)

    monkeypatch.setattr(store, "save", slow)
    monkeypatch.setattr(loop, "log_step", look)
    finetune(recipe, tmp_path, "name=r", "checkpoint.every=2", "checkpoint.best=null", "eval.every=null")
    assert len(behind) == 8
    assert max(behind) == 2


def test_an_export_of_such_a_run_warns_and_a_wrong_fault_is_refused(recipe: Path, tmp_path: Path) -> None:
    run = finetune(recipe, tmp_path, "name=r", asked("nan_loss@3"))
    done = ttstrain("export", run, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "WARNING: a run to test ttstrain itself with nan_loss@3" in done.stderr
    for fault, said in (("nan_los@3", "there is no fault `nan_los`"), ("oom@99", "comes after the last step")):
        refused = ttstrain("finetune", recipe, f"run_dir={tmp_path}", "name=x", asked(fault), "--dry-run")
        assert refused.returncode == 2
        assert said in refused.stderr
