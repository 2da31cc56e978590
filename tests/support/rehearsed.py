"""What is done on pretended CUDA in a process of its own; each function returns plain values."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from pretended_cuda import GPU, pretended_cuda
from small_orpheus import CONFIG
from torch import Tensor, nn
from toys import Gan, Joint, Regression, make_batch, make_run

from ttstrain.contract.task import Loss, Task
from ttstrain.data.ahead import pinned
from ttstrain.families.orpheus.rows import pack, speech_row
from ttstrain.families.orpheus.task import OrpheusTask
from ttstrain.modules.fp8 import learn_in_fp8
from ttstrain.train import loop
from ttstrain.train.precision import Precision
from ttstrain.train.snapshot import MemorySnapshots
from ttstrain.train.step import train_step


def take_a_step() -> dict[str, Any]:
    """Make a forward and a backward pass and an update, and read the loss."""
    with pretended_cuda() as gpu:
        net = nn.Linear(8, 4).to(GPU)
        optimizer = torch.optim.AdamW(net.parameters(), fused=True)
        loss = net(torch.randn(3, 8).to(GPU)).square().mean()
        loss.backward()
        optimizer.step()
        assert net.weight.grad is not None
        gpu.waits.clear()
        found = {"gradient on": str(net.weight.grad.device), "loss": loss.item(), "waits": len(gpu.waits)}
        before = gpu.live
        del optimizer, loss
        net.zero_grad()
        return {**found, "freed": gpu.live < before}


class Wide(Task):
    """A net whose weights outweigh its batches by far."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(512, 512, bias=False)  # 1 MiB

    def losses(self, batch: Any) -> Iterator[Loss]:
        yield Loss(self.net(batch.x).square().mean())

    def evaluate(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        raise NotImplementedError("this task is only trained, never evaluated")


class Rows(SimpleNamespace):
    """Some rows of nothing, as a batch."""

    def to(self, device: torch.device) -> Rows:
        return Rows(**{**vars(self), "x": self.x.to(device)})


def have_no_room_for_moments(folder: Path) -> None:
    """Step through the loop's own door on a GPU that has room for a gradient, and for no two moments beside it."""
    with pretended_cuda() as gpu:
        task = Wide()
        task.to(GPU)
        run: Any = make_run(task)
        run.device, run.folder = GPU, folder
        run.plan = SimpleNamespace(recipe=SimpleNamespace(train=SimpleNamespace(measure_every=10)))
        run.loader = SimpleNamespace(limit=None)  # cannot halve anything
        run.store = SimpleNamespace(
            wait=lambda: None,
            wait_for_held=lambda: None,
            failure=lambda wait: None,
            last=lambda: folder,
            folder=lambda step: folder,
        )
        snapshots = MemorySnapshots()
        snapshots.take(run.state, 0)
        gpu.limit = gpu.live + 2.5 * 2**20
        batch = Rows(ids=["a", "b"], x=torch.zeros(2, 512), weight=2.0, num_frames=2, num_padded=2)
        loop.take_step(run, [batch], snapshots)


def note_waits(name: str, micro_batches: int, measure: bool) -> list[str]:
    """Take a step of a toy on the GPU, its batches in page-locked memory; return its waits for the device."""
    with pretended_cuda() as gpu:
        task: Task = {"Regression": Regression, "Joint": Joint, "Gan": Gan}[name]()
        task.to(GPU)
        run: Any = make_run(task, ema_decay=0.9)
        run.device = GPU
        batches = [pinned(make_batch(4, seed=seed)) for seed in range(micro_batches)]
        gpu.waits.clear()
        train_step(run, batches, measure=measure)
        return list(gpu.waits)


def learn_in_fp8_on_gpu(width: int) -> dict[str, Any]:
    """Take a step of a small net in FP8 beside bf16; return its tokens, and what torch's product in FP8 was given."""
    products: list[tuple[Any, ...]] = []
    multiply = torch._scaled_mm

    def noting(one: Tensor, other: Tensor, **options: Any) -> Tensor:
        products.append((one.dtype, other.dtype, options["out_dtype"]))
        return multiply(one, other, **options)

    sizes = {"hidden_size": 64, "intermediate_size": width, "head_dim": 16}
    with pretended_cuda() as gpu, patch.object(torch, "_scaled_mm", noting):
        with gpu.fake:
            task = OrpheusTask(CONFIG.model_copy(update=sizes))
        task.to(GPU)
        learn_in_fp8(task.repeated_blocks())
        run: Any = make_run(task)
        run.device, run.precision = GPU, Precision("bf16", GPU)
        batch = pinned(pack([speech_row("a", [1, 2, 3], torch.zeros(2, 7, dtype=torch.long), CONFIG.ids)]))
        train_step(run, [batch])
    return {"tokens": batch.input_ids.shape[1], "products": products}
