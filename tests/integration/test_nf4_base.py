"""A run of adapters over a base in 4 bits: trained, cut, rolled back, moved, inspected and exported."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import checkpoint, cut_off, differences, finetune, metrics, write_base

from ttstrain.checkpoint import base_record, store
from ttstrain.checkpoint.inspect import inspect
from ttstrain.checkpoint.upstream import load_own
from ttstrain.errors import CheckpointError
from ttstrain.export.choose import gather
from ttstrain.modules import lora
from ttstrain.runs.resume import resume

pytest.importorskip("peft")
pytest.importorskip("bitsandbytes")

STEPS = 4
LORA = ("lora={rank: 2, alpha: 4, base: nf4}", f"train.steps={STEPS}", "optim.lr=2e-2", "name=adapted")
FAULTS = "debug.inject=[nan_loss@3]"
PATIENCE = ("guard.max_skips=1", "guard.snapshot_every=1")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base in `net` and a run over it, both named by relative paths."""
    root = tmp_path_factory.mktemp("root")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        recipe = write_base(root)
        finetune(recipe, Path("runs"), *LORA, "base=net")
        finetune(recipe, Path("full"), *LORA, "base=net", "lora.base=full")
    return root


@pytest.fixture
def copied(root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(root, tmp_path / "copy"))


def test_it_learns_as_over_the_whole_base(root: Path) -> None:
    rows = [[row for row in metrics(root / name / "adapted") if "eval/loss/total" in row] for name in ("runs", "full")]
    found = [[row["eval/loss/total"] for row in own] for own in rows]
    assert found[0] != found[1]
    assert found[0] == pytest.approx(found[1], rel=0.05)


def test_its_checkpoints_hold_adapters_and_are_whole_over_the_base_s_own_weights(root: Path) -> None:
    last = root / "runs" / "adapted" / "checkpoints" / f"step-{STEPS:08d}"
    stored, net = store.load(last).state, store.load(root / "net").state["task"]
    assert all(lora.is_adapter(name) or name.endswith("inv_freq") for name in stored["task"])
    for held in (load_own(last).state["task"], load_own(last).state["ema"]["weights"]):
        kept = {lora.plain_name(name): tensor for name, tensor in held.items() if not lora.is_adapter(name)}
        assert differences(kept, {name: net[name] for name in kept}) == []


def test_exported_the_adapters_are_merged_into_the_base_s_own_weights(root: Path) -> None:
    run, net = root / "runs" / "adapted", store.load(root / "net").state["task"]
    task = checkpoint(run, STEPS).state["task"]
    exported = gather(run, weights="online").weights
    moved = 0
    for name, weight in exported.items():
        layer = name.removesuffix(".weight")
        down, up = (task.get(f"{layer}.{part}.default.weight") for part in (lora.DOWN, lora.UP))
        expected = net[name] if down is None or up is None else net[name] + 2 * (up @ down)
        torch.testing.assert_close(weight, expected, rtol=0, atol=1e-6)
        moved += down is not None
    assert moved == 6


def test_a_cut_run_ends_bit_for_bit_as_the_whole_where_it_was_moved_too(copied: Path, root: Path) -> None:
    run = cut_off(copied / "runs" / "adapted", after=2)
    (copied / "net").rename(copied / "elsewhere")
    resume(run, [f"data.path={copied / 'speech'}"], base=[str(copied / "elsewhere")])
    whole = root / "runs" / "adapted"
    assert differences(checkpoint(run, STEPS).state, checkpoint(whole, STEPS).state) == []
    assert metrics(run) == metrics(whole)


def test_a_rollback_brings_back_the_adapters(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copied)
    run = finetune(copied / "r.yaml", copied / "rolled", *LORA, "base=net", FAULTS, *PATIENCE)
    assert any((run / "incidents").iterdir())
    before = store.load(run / "checkpoints" / "step-00000002").state
    expected = store.load(copied / "runs" / "adapted" / "checkpoints" / "step-00000002").state
    assert differences(before["task"], expected["task"]) == []
    assert metrics(run)[-1]["step"] == STEPS


def test_it_is_inspected_as_a_net_with_adapters(root: Path) -> None:
    found, of_base = inspect(root / "runs" / "adapted"), inspect(root / "net")
    assert (found.kind, found.parameters, found.tensors) == ("training", of_base.parameters, of_base.tensors)


def test_the_base_may_be_held_otherwise_when_it_goes_on(copied: Path) -> None:
    run, data = copied / "runs" / "adapted", f"data.path={copied / 'speech'}"
    cut_off(run, after=2)
    resume(run, [data, "lora.base=full"])
    assert differences(checkpoint(run, STEPS).state, checkpoint(copied / "full" / "adapted", STEPS).state) != []


def test_a_checkpoint_that_holds_weights_of_the_base_is_refused(copied: Path) -> None:
    run, data = cut_off(copied / "full" / "adapted", after=2), f"data.path={copied / 'speech'}"
    folder = run / "checkpoints" / "step-00000002"
    loaded, stored = load_own(folder), store.load(folder)
    base = stored.meta.base
    assert base is not None
    held = next(name for name in base.tensors if name.endswith("base_layer.weight"))
    for tensors, state, message in (
        ({}, loaded.state, "holds the whole net"),
        ({name: kind for name, kind in base.tensors.items() if name != held}, stored.state, "has none for"),
    ):
        left_out = base.model_copy(update={"tensors": tensors}) if tensors else None
        task = {**state["task"], held: loaded.state["task"][held]}
        ema = {"weights": {**state["ema"]["weights"], held: loaded.state["task"][held]}}
        meta = stored.meta.model_copy(update={"base": left_out})
        store.save(folder, {**state, "task": task, "ema": ema}, meta, per_rank=loaded.per_rank)
        with pytest.raises(CheckpointError, match=message):
            resume(run, [data, "lora.base=nf4"])


def test_a_base_that_is_replaced_while_the_run_starts_ends_it(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, calls = base_record.write, []

    def replaced(*arguments: Any) -> base_record.BaseRecord:
        calls.append(arguments)
        if len(calls) == 1:
            raise FileNotFoundError
        return write(*arguments)

    monkeypatch.setattr(base_record, "write", replaced)
    monkeypatch.chdir(copied)
    with pytest.raises(CheckpointError, match="was replaced while the run started") as caught:
        finetune(copied / "r.yaml", copied / "again", *LORA, "base=net")
    assert caught.value.hint == "start the run again"
