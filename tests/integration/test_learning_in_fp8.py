"""A run in FP8, its products emulated: what it leaves is what a run without FP8 leaves, and either goes on from it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from small_orpheus import write_all
from small_runs import checkpoint, finetune, flat, metrics, ttstrain

from ttstrain.modules.fp8 import learn_in_fp8
from ttstrain.runs import new
from ttstrain.train import faster

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU would be used")
ANY = ("train.device=auto", "train.precision=auto", "train.steps=2", "optim.schedule.warmup_steps=0")


def test_checkpoints_are_those_of_a_run_without_it_but_for_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torchao")
    monkeypatch.setattr(new, "check_machine", lambda train, device: None)  # as if the GPU were there
    monkeypatch.setattr(faster, "learn_in_fp8", partial(learn_in_fp8, emulate=True))
    recipe = write_all(tmp_path / "made")
    plain = finetune(recipe, tmp_path / "plain", *ANY)
    rounded = finetune(recipe, tmp_path / "rounded", *ANY, "train.fp8=true")
    losses = [
        [line["train/loss/model"] for line in metrics(run) if "train/loss/model" in line] for run in (plain, rounded)
    ]
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=1e-3)
    kept = [flat(checkpoint(run, 2).state) for run in (plain, rounded)]
    shapes = [
        {name: (one.shape, one.dtype) for name, one in run.items() if isinstance(one, torch.Tensor)} for run in kept
    ]
    assert shapes[0] == shapes[1] and shapes[0]
    monkeypatch.undo()
    gone_on = ttstrain("resume", rounded, "train.steps=3", "train.fp8=false")
    assert gone_on.returncode == 0, gone_on.stderr
