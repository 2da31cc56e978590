"""Small tasks of every shape the contract knows: one loss, a GAN, two losses into one optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttstrain.contract.task import Loss, Task
from ttstrain.optim.ema import Ema
from ttstrain.optim.groups import build_groups
from ttstrain.optim.optimizers import Optimizers
from ttstrain.recipe.schema import GuardConfig, OptimConfig
from ttstrain.state import Progress, TrainState
from ttstrain.tensors.sharded import ModuleWeights
from ttstrain.train.best import Best
from ttstrain.train.distributed import Ranks
from ttstrain.train.guard import Guard
from ttstrain.train.precision import Precision
from ttstrain.train.rng import Rng
from ttstrain.train.sums import GradientSums

CPU = torch.device("cpu")


@dataclass(frozen=True)
class ToyBatch:
    ids: Sequence[str]
    x: Tensor  # (b, 4)
    y: Tensor  # (b, 3)
    weight: float
    num_frames: int
    num_padded: int

    def to(self, device: torch.device) -> ToyBatch:
        return replace(self, x=self.x.to(device, non_blocking=True), y=self.y.to(device, non_blocking=True))


def make_batch(size: int, *, seed: int = 0, poison: float | None = None) -> ToyBatch:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(size, 4, generator=generator), torch.randn(size, 3, generator=generator)
    if poison is not None:
        x[0, 0] = poison
    return ToyBatch([f"clip-{seed}-{i}" for i in range(size)], x, y, float(size), size, size + 1)


def split(batch: ToyBatch, *sizes: int) -> list[ToyBatch]:
    parts, start = [], 0
    for size in sizes:
        rows = slice(start, start + size)
        parts.append(ToyBatch(batch.ids[rows], batch.x[rows], batch.y[rows], float(size), size, size + 1))
        start += size
    assert start == len(batch.ids)
    return parts


class Regression(Task):
    """One loss, one optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 3))

    def losses(self, batch: ToyBatch) -> Iterator[Loss]:
        error = F.mse_loss(self.net(batch.x).float(), batch.y)
        yield Loss(error, metrics={"mean_output": error.detach() * 2})

    def evaluate(self, batch: ToyBatch, generator: torch.Generator) -> Mapping[str, Tensor]:
        return {"total": F.mse_loss(self.net(batch.x), batch.y)}


class Gan(Task):
    """Discriminator, then a generator that is scored by the updated discriminator."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        self.discriminator = nn.Sequential(nn.Linear(3, 8), nn.LeakyReLU(0.1), nn.Linear(8, 1))

    def optimized(self) -> Mapping[str, nn.Module]:
        return {"discriminator": self.discriminator, "generator": self.generator}

    def exported(self) -> nn.Module:
        return self.generator

    def losses(self, batch: ToyBatch) -> Iterator[Loss]:
        fake = self.generator(batch.x)
        real_score, fake_score = self.discriminator(batch.y), self.discriminator(fake.detach())
        yield Loss(((real_score - 1) ** 2).mean() + (fake_score**2).mean(), updates="discriminator")
        l1 = F.l1_loss(fake, batch.y)
        yield Loss(((self.discriminator(fake) - 1) ** 2).mean() + 10 * l1, updates="generator", metrics={"l1": l1})

    def evaluate(self, batch: ToyBatch, generator: torch.Generator) -> Mapping[str, Tensor]:
        return {"total": F.l1_loss(self.generator(batch.x), batch.y)}


class Joint(Task):
    """Two models, two losses, one optimizer with two named groups."""

    def __init__(self) -> None:
        super().__init__()
        self.gpt = nn.Linear(4, 3)
        self.vae = nn.Linear(4, 3)

    def losses(self, batch: ToyBatch) -> Iterator[Loss]:
        yield Loss(F.mse_loss(self.gpt(batch.x), batch.y), name="gpt", steps=False)
        yield Loss(F.l1_loss(self.vae(batch.x), batch.y), name="vae")

    def evaluate(self, batch: ToyBatch, generator: torch.Generator) -> Mapping[str, Tensor]:
        return {"total": F.mse_loss(self.gpt(batch.x), batch.y) + F.l1_loss(self.vae(batch.x), batch.y)}


class Counting(Regression):
    """Keeps a running mean of its inputs, which no optimizer moves."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def losses(self, batch: ToyBatch) -> Iterator[Loss]:
        statistics = {"sum": batch.x.sum(0), "count": torch.tensor(float(len(batch.x)))}
        for loss in super().losses(replace(batch, x=batch.x - self.mean)):
            yield replace(loss, statistics=statistics)

    def learn(self, statistics: Mapping[str, Tensor]) -> None:
        self.mean.lerp_(statistics["sum"] / statistics["count"], 0.1)


def make_run(
    task: Task,
    *,
    optim: OptimConfig | None = None,
    precision: str = "fp32",
    guard: GuardConfig | None = None,
    ema_decay: float | None = None,
    ranks: Ranks | None = None,
    total_steps: int = 100,
    shard: int = 1,
) -> SimpleNamespace:
    """Assemble what `train_step` needs around a task, sharded over groups of so many ranks."""
    ranks = ranks or Ranks()
    shards = None
    if shard > 1:
        from ttstrain.train.shards import Shards  # imports torch's FSDP2

        shards = Shards(task, device=CPU, ranks=ranks, degree=shard)
    config = optim or OptimConfig(lr=1e-2, weight_decay=0.01)
    table = build_groups(task.optimized(), task.named_parameters(), config)
    optimizers = Optimizers.build(table, total_steps=total_steps, steps_per_epoch=10.0)
    if shards is not None:
        shards.begin()
    ema = None if ema_decay is None else Ema(task.exported(), decay=ema_decay, start_step=0, every=1)
    run = SimpleNamespace(
        device=CPU,
        ranks=ranks,
        shards=shards,
        sums=GradientSums(),
        task=task,
        optimizers=optimizers,
        ema=ema,
        precision=Precision(precision, CPU),
        guard=Guard(guard or GuardConfig()),
        progress=Progress(),
        rng=Rng(CPU),
        best=Best(None),
        injector=None,
    )
    names = ("task", "optimizers", "precision", "guard", "progress", "rng", *(["ema"] if ema is not None else []))
    run.state = TrainState(**{name: getattr(run, name) for name in names})
    if shards is not None:
        run.state.parts["task"] = ModuleWeights(task)
    return run
