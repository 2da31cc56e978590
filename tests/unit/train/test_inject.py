"""Injected faults: where each enters, that it enters once, and that the record outlives the process."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_runs import differences
from toys import Gan, Regression, make_batch, make_run, split

from ttstrain.checkpoint import store
from ttstrain.checkpoint.meta import Meta
from ttstrain.errors import CheckpointError
from ttstrain.recipe.faults import KINDS, read_fault, read_faults
from ttstrain.train import inject
from ttstrain.train.distributed import Ranks
from ttstrain.train.inject import OF_DATA, OF_DISK, OF_LOSSES, OF_RANKS, Injector
from ttstrain.train.step import DidNotFit, train_step

META = Meta(family="flow", task="flow", model={}, recipe="r", step=3)


def make(folder: Path, *written: str, said: list[str] | None = None) -> Injector:
    return Injector(read_faults(written), folder=folder, say=(said if said is not None else []).append)


def run_with(folder: Path, *written: str, task: Any = Regression) -> Any:
    torch.manual_seed(0)
    run = make_run(task(), ema_decay=0.9)
    run.injector = make(folder, *written)
    return run


def test_every_fault_enters_in_one_place() -> None:
    assert sorted([*OF_LOSSES, *OF_RANKS, *OF_DATA, *OF_DISK]) == sorted(KINDS)


@pytest.mark.parametrize(
    ("written", "said"),
    [("nan_los@2", "did you mean `nan_loss`"), ("oom", "names no step"), ("oom@0", "names no step"), ("oom@x", "step")],
)
def test_a_fault_that_cannot_be_read_is_refused(written: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_fault(written)
    with pytest.raises(ValueError, match="named twice"):
        read_faults(["oom@3", "oom@03"])


@pytest.mark.parametrize(("kind", "judged"), [("nan_loss", "non_finite_loss"), ("inf_grad", "non_finite_gradient")])
@pytest.mark.parametrize("task", [Regression, Gan])
def test_a_fault_is_refused_in_its_step_and_not_again(kind: str, judged: str, task: Any, tmp_path: Path) -> None:
    run = run_with(tmp_path, f"{kind}@2", task=task)
    batch = make_batch(4)
    assert not train_step(run, [batch]).refused
    before = run.state.snapshot()
    report = train_step(run, [batch])
    last = run.optimizers.names[-1]
    assert {name: verdict.judgement for name, verdict in report.refused.items()} == {last: judged}
    if task is Regression:
        changed = {part for part, tree in run.state.snapshot().items() if differences(tree, before[part])}
        assert changed <= {"progress", "rng"}
    assert not train_step(run, [batch]).refused
    assert not train_step(run, [batch]).refused


def test_a_spike_scales_the_loss_of_its_step(tmp_path: Path) -> None:
    plain, spiked = run_with(tmp_path / "none"), run_with(tmp_path, "spike@1")
    one, other = (train_step(run, [make_batch(4)]).losses["model"] for run in (plain, spiked))
    assert other == pytest.approx(inject.SPIKE * one)


def test_memory_runs_out_once(tmp_path: Path) -> None:
    run = run_with(tmp_path, "oom@1")
    with pytest.raises(DidNotFit) as caught:
        train_step(run, split(make_batch(4), 2, 2))
    assert not caught.value.half_done
    assert train_step(run, split(make_batch(4), 2, 2)).step == 1


def test_a_bad_clip_stays_bad(tmp_path: Path) -> None:
    bad, good = make_batch(4, seed=1), make_batch(4, seed=2)
    run = run_with(tmp_path, "bad_clip@1")
    assert [bool(train_step(run, [batch]).refused) for batch in (bad, bad, good, bad)] == [True, True, False, True]
    run.injector = make(tmp_path, "bad_clip@1")  # as a resume does
    assert train_step(run, [bad]).refused
    run.injector = make(tmp_path, "oom@90")  # and no longer, where it is not asked for
    assert not train_step(run, [bad]).refused


def test_what_entered_does_not_enter_in_a_resumed_run(tmp_path: Path) -> None:
    said: list[str] = []
    run = run_with(tmp_path, "nan_loss@1")
    assert train_step(run, [make_batch(4)]).refused
    run.injector = make(tmp_path, "nan_loss@1", "oom@9", said=said)
    assert (run.injector.num_entered, run.injector.missing()) == (1, ["oom@9"])
    assert not train_step(run, [make_batch(4)]).refused
    assert said == []
    later = inject.make([], folder=tmp_path, ranks=Ranks(), say=said.append)
    assert later is not None  # a run with faults in its past keeps its mark
    assert later.named == ["nan_loss@1"]
    assert inject.make([], folder=tmp_path / "other", ranks=Ranks(), say=said.append) is None


@pytest.mark.parametrize(
    ("ranks", "killed"),
    [(Ranks(0, 3), 0), (Ranks(1, 3), 0), (Ranks(2, 3), 1), (Ranks(), 0)],
)
def test_only_the_last_of_several_processes_is_killed(
    ranks: Ranks, killed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills: list[int] = []
    monkeypatch.setattr("ttstrain.train.inject.os.kill", lambda pid, number: kills.append(number))
    run = run_with(tmp_path)
    run.injector = inject.make(read_faults(["lost_rank@1"]), folder=tmp_path, ranks=ranks, say=lambda line: None)
    train_step(run, [make_batch(4)])
    assert kills == killed * [signal.SIGKILL]
    assert (tmp_path / inject.RECORD).exists() == bool(killed)
    if run.injector is not None:
        assert run.injector.missing() == ([] if killed else ["lost_rank@1"])


def test_a_killed_loader_process_is_one_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kills: list[tuple[int, int]] = []
    monkeypatch.setattr("ttstrain.train.inject.os.kill", lambda pid, number: kills.append((pid, number)))
    injector = make(tmp_path, "worker_death@2")
    for step, pids in ((1, [7, 8]), (2, []), (2, [7, 8]), (2, [8])):  # where no process runs, the fault waits
        injector.before_batch(SimpleNamespace(worker_pids=lambda pids=pids: pids), step=step)
    assert kills == [(7, signal.SIGKILL)]


def test_a_damaged_record_is_said(tmp_path: Path) -> None:
    (tmp_path / inject.RECORD).write_text('{"fault": "oom@1"}\n[]\n')
    with pytest.raises(CheckpointError, match=r"injected.jsonl` is damaged"):
        make(tmp_path, "oom@1")


@pytest.fixture
def written(tmp_path: Path) -> Iterator[dict[str, Any]]:
    yield {"task": {"w": torch.arange(64.0)}, "progress": {"step": 3}}


def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path: Path, written: dict[str, Any]) -> None:
    store.save(tmp_path / "step-00000003", written, META)
    hook = make(tmp_path, "disk_full@3").at_save(4)
    with pytest.raises(CheckpointError, match="No space left"):
        store.save(tmp_path / "step-00000003", {**written, "task": {"w": torch.zeros(2)}}, META, hook=hook)
    assert torch.equal(store.load(tmp_path / "step-00000003").state["task"]["w"], torch.arange(64.0))
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["step-00000003"]


def test_a_flipped_bit_is_found(tmp_path: Path, written: dict[str, Any]) -> None:
    injector = make(tmp_path, "bit_flip@3")
    assert injector.at_save(2) is None  # not due yet
    store.save(tmp_path / "step-00000003", written, META, hook=injector.at_save(3))
    assert injector.at_save(4) is None
    with pytest.raises(CheckpointError, match="damaged"):
        store.load(tmp_path / "step-00000003")


def test_a_slow_disk_writes_the_same(tmp_path: Path, written: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("ttstrain.train.inject.time.sleep", slept.append)
    store.save(tmp_path / "step-00000003", written, META, hook=make(tmp_path, "slow_disk@1").at_save(3))
    assert slept == [inject.SLOW_S]
    assert differences(store.load(tmp_path / "step-00000003").state, written) == []


def test_a_gradient_is_infinite_and_the_loss_is_not(tmp_path: Path) -> None:
    run = run_with(tmp_path, "inf_grad@1")
    report = train_step(run, [make_batch(4)])
    assert math.isfinite(report.losses["model"])
    assert not math.isfinite(report.grad_norms["model"])
