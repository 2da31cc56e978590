"""A run whose optimizer state lies on the host: the numbers of one without, cut, rolled back and gone on with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from small_runs import RECIPE, checkpoint, cut_off, differences, finetune, flat, metrics, write_clips, write_recipe

from ttstrain.runs.resume import resume

STEPS = 4
SHORT = (f"train.steps={STEPS}", "optim.schedule.warmup_steps=0", "name=r")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    recipe = write_recipe(root / "r.yaml", data=write_clips(root / "speech"), text=RECIPE)
    finetune(recipe, root / "offloaded", *SHORT, "optim.offload=true")
    finetune(recipe, root / "plain", *SHORT)
    return root


def close(one: Path, other: Path) -> None:
    found, wanted = (flat(checkpoint(run, STEPS).state) for run in (one, other))
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


def test_it_ends_where_a_run_with_its_state_beside_the_weights_ends(root: Path) -> None:
    close(root / "offloaded" / "r", root / "plain" / "r")
    lrs = [[row["optim/lr/model/default"] for row in metrics(root / name / "r") if "optim/lr/model/default" in row]
           for name in ("offloaded", "plain")]  # fmt: skip
    assert lrs[0] == lrs[1] and len(lrs[0]) == STEPS


def test_cut_it_ends_bit_for_bit_as_the_whole_and_goes_on_without_it_too(root: Path, tmp_path: Path) -> None:
    whole = root / "offloaded" / "r"
    run = cut_off(Path(shutil.copytree(whole, tmp_path / "same")), after=2)
    resume(run, [])
    assert differences(checkpoint(run, STEPS).state, checkpoint(whole, STEPS).state) == []
    other = cut_off(Path(shutil.copytree(whole, tmp_path / "other")), after=2)
    resume(other, ["optim.offload=false"])
    close(other, whole)


def test_a_rollback_brings_back_what_the_host_holds(root: Path) -> None:
    options = ("optim.offload=true", "debug.inject=[nan_loss@3]", "guard.max_skips=1", "guard.snapshot_every=1")
    run = finetune(root / "r.yaml", root / "rolled", *SHORT, *options)
    assert any((run / "incidents").iterdir())
    whole = root / "offloaded" / "r"
    assert differences(checkpoint(run, 2).state["optimizers"], checkpoint(whole, 2).state["optimizers"]) == []
    assert metrics(run)[-1]["step"] == STEPS
