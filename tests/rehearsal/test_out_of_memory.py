"""A GPU with too little memory: what does not fit is said, with exit code 6, wherever it happens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pretended_cuda import GPU, needs_cuda_build, pretended_cuda
from small_runs import RECIPE, write_clips, write_recipe
from torch import Tensor, nn
from toys import make_run

from ttstrain.config.compose import compose
from ttstrain.engine import loop
from ttstrain.engine.snapshot import MemorySnapshots
from ttstrain.engine.start import start
from ttstrain.errors import OutOfMemoryError
from ttstrain.task import Loss, Task

pytestmark = needs_cuda_build


@pytest.mark.parametrize("what", ["weights", "average"])
def test_a_model_that_does_not_fit_ends_before_training(tmp_path: Path, what: str) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", data=write_clips(tmp_path / "speech", count=4), text=RECIPE)
    composed = compose(str(recipe), ["train.device=cuda", "train.precision=fp32", f"run_dir={tmp_path}", "name=r"])
    limit = {"weights": 0.9, "average": 1.5}[what] * _weights_of(composed)
    with (
        pretended_cuda(limit=limit),
        pytest.raises(OutOfMemoryError, match="before the training began: CUDA") as caught,
    ):
        start(composed)
    assert caught.value.exit_code == 6
    assert "ttstrain plan" in str(caught.value.hint)
    assert not (tmp_path / "r").exists()  # a run that never was leaves no folder


def _weights_of(composed: Any) -> int:
    from ttstrain import families
    from ttstrain.config.resolve import parse

    parsed = parse(composed)
    return 4 * families.find_task(parsed.task).config.model_validate(parsed.model).num_parameters()


# ---------------------------------------------------------------- an update


class Wide(Task):
    """A net whose weights outweigh its batches by far."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(512, 512, bias=False)  # 1 MiB

    def losses(self, batch: Any) -> Iterator[Loss]:
        yield Loss(self.net(batch.x).square().mean())

    def evaluate(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        raise NotImplementedError


def wide_run(folder: Path) -> Any:
    task = Wide()
    task.to(GPU)
    run = make_run(task)
    run.device, run.folder = GPU, folder
    run.plan = SimpleNamespace(recipe=SimpleNamespace(train=SimpleNamespace(measure_every=10)))
    run.trackers = SimpleNamespace(incident=lambda *_: None, note=lambda *_: None)
    run.loader = SimpleNamespace(limit=None)  # is not asked to halve anything
    return run


def test_moments_that_do_not_fit_are_no_reason_to_halve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_leave_good_checkpoint", lambda run, snapshots: tmp_path / "step-00000000")
    batch = SimpleNamespace(
        ids=["a", "b"], x=torch.zeros(2, 512), weight=2.0, num_frames=2, num_padded=2, to=lambda device: on_gpu
    )
    with pretended_cuda() as gpu:
        on_gpu = SimpleNamespace(**{**vars(batch), "x": batch.x.to(GPU)})
        run = wide_run(tmp_path)
        snapshots = MemorySnapshots()
        snapshots.take(run.state, 0)
        gpu.limit = gpu.live + 2.5 * 2**20  # a gradient fits, two moments beside it do not
        with pytest.raises(OutOfMemoryError, match="step 1 while it updated the weights of optimizer `model`"):
            loop._step(run, [batch], snapshots)
        assert not (tmp_path / "incidents").exists()
