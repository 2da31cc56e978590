"""Where the last good state is held, and who writes it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_runs import differences
from toys import Regression, make_batch, make_run

from ttstrain.checkpoint.meta import Meta
from ttstrain.errors import CheckpointError
from ttstrain.tensors.sharded import ModuleWeights
from ttstrain.train.distributed import Ranks
from ttstrain.train.snapshot import DiskSnapshots, MemorySnapshots, make
from ttstrain.train.step import train_step


def trained(steps: int) -> SimpleNamespace:
    torch.manual_seed(0)
    run = make_run(Regression(), ema_decay=0.9)
    train_on(run, steps)
    return run


def train_on(run: Any, steps: int) -> None:
    for seed in range(steps):
        train_step(run, [make_batch(4, seed=seed)])


def meta() -> Meta:
    return Meta(family="toy", task="toy", model={}, recipe="toy", step=0)


def weights_of(run: Any) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in run.task.parameters()]


def test_a_second_snapshot_takes_no_more_memory_than_the_first() -> None:
    run, snapshots = trained(1), MemorySnapshots()
    snapshots.take(run.state, 1)
    places = {name: tensor.data_ptr() for name, tensor in snapshots.content()["task"].items()}
    train_on(run, 2)
    held = weights_of(run)
    snapshots.take(run.state, 3)
    assert {name: tensor.data_ptr() for name, tensor in snapshots.content()["task"].items()} == places
    train_on(run, 2)
    snapshots.restore(run.state)
    assert all(torch.equal(one, other) for one, other in zip(weights_of(run), held, strict=True))
    train_on(run, 2)  # a restored state shares nothing with the snapshot
    snapshots.restore(run.state)
    assert all(torch.equal(one, other) for one, other in zip(weights_of(run), held, strict=True))


def test_one_process_of_a_machine_writes_what_all_of_it_read(tmp_path: Path) -> None:
    """Ranks 4 and 5 are the two processes of the third machine."""
    ranks = [Ranks(rank=4 + local, world_size=6, local_rank=local, local_size=2) for local in range(2)]
    first, second = (make("disk", run_folder=tmp_path, meta=meta(), ranks=own) for own in ranks)
    runs = trained(2), trained(2)
    torch.manual_seed(1)  # of the second process: its random numbers are its own
    second.take(runs[1].state, 2)
    assert list(tmp_path.iterdir()) == []
    torch.manual_seed(0)
    first.take(runs[0].state, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["snapshot-rank-4"]
    held = weights_of(runs[0])
    for run, snapshots in zip(runs, (first, second), strict=True):
        train_on(run, 1)
        snapshots.restore(run.state)
        assert all(torch.equal(one, other) for one, other in zip(weights_of(run), held, strict=True))
    generators = [snapshots.content()["rng"]["torch"] for snapshots in (first, second)]
    assert not torch.equal(*generators)
    second.drop()
    assert (tmp_path / "snapshot-rank-4").exists()
    first.drop()
    assert list(tmp_path.iterdir()) == []


def test_a_snapshot_on_disk_is_replaced_and_not_hashed(tmp_path: Path) -> None:
    run = trained(1)
    snapshots = DiskSnapshots(tmp_path / "s", meta())
    for step in (1, 2):
        snapshots.take(run.state, step)
    (folder,) = (tmp_path / "s").iterdir()
    assert folder.name == "step-00000002"
    assert '"sha256":""' in (folder / "meta.json").read_text().replace(" ", "")
    assert snapshots.in_memory() == {}


def test_what_cannot_change_is_in_no_snapshot_and_stays(tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = Regression()
    frozen = {"net.0.weight", "net.0.bias"}
    for name in frozen:
        task.get_parameter(name).requires_grad_(False)
    run = make_run(task, ema_decay=0.9)
    whole = run.state.state_dict()
    run.state.parts["task"] = weights = ModuleWeights(task)
    weights.leave_out(frozen)
    run.ema.leave_out(frozen)
    for snapshots in (MemorySnapshots(), DiskSnapshots(tmp_path / "s", meta())):
        train_on(run, 1)
        snapshots.take(run.state, 1)
        held, expected = snapshots.content(), run.state.snapshot()
        for table, names in ((held["task"], whole["task"]), (held["ema"]["weights"], whole["ema"]["weights"])):
            assert set(table) == set(names) - frozen
        train_on(run, 2)
        snapshots.restore(run.state)
        found = run.state.snapshot()
        assert [part for part in ("task", "ema", "optimizers") if differences(found[part], expected[part])] == []
    with pytest.raises(RuntimeError, match=r"net\.2\.weight"):  # only what is left out may be missing
        run.state.parts["task"].load_state_dict({"net.3.bias": torch.zeros(3), "net.3.weight": torch.zeros(3, 8)})
    with pytest.raises(CheckpointError, match="EMA weights do not fit"):
        run.ema.load_state_dict({"weights": {"net.3.bias": torch.zeros(3)}})
