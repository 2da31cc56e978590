"""What is done on pretended CUDA in a process of its own; each function returns plain values."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from pretended_cuda import GPU, pretended_cuda
from torch import Tensor, nn
from toys import Gan, Joint, Regression, make_batch, make_run

from ttstrain.contract.task import Loss, Task
from ttstrain.data.ahead import pinned
from ttstrain.train import loop
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
