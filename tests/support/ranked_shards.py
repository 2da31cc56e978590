"""What the ranks of a group do in tests of sharding: `Processes` runs these functions in each of them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from ranked import OPTIM, joined
from torch import Tensor, nn
from toys import ToyBatch, make_batch, make_run, split

from ttstrain.checkpoint.meta import Meta
from ttstrain.contract.task import Loss, Task
from ttstrain.optim.rounded import RoundedAdamW
from ttstrain.recipe.schema import GuardConfig
from ttstrain.state import detach_copy
from ttstrain.tensors.sharded import gathered, held, whole
from ttstrain.train import recovery, snapshot
from ttstrain.train.distributed import Ranks
from ttstrain.train.evaluate import evaluate
from ttstrain.train.step import StepReport, train_step

ROWS = 13  # of a global batch
PIECES = {2: ((3, 3), (6, 1)), 4: ((3, 1), (4, 1), (1, 1), (1, 1))}  # ranks -> rows in each rank's micro-batches


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.rare = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        out = x + torch.tanh(self.inner(x))
        often = x[:, 0] > 1  # some clips use weights that others do not
        return out + self.rare(x) * often[:, None] if often.any() else out


class Stack(Task):
    """Blocks, the last of which is frozen; weights read without a forward, and weights that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = nn.ModuleList(Block() for _ in range(3))
        self.stack[2].requires_grad_(False)
        self.head, self.never = nn.Linear(4, 3), nn.Linear(4, 3)

    def repeated_blocks(self) -> Sequence[nn.Module]:
        return list(self.stack)

    def answer(self, x: Tensor) -> Tensor:
        for block in self.stack:
            x = block(x)
        return F.linear(x, self.head.weight, self.head.bias)

    def losses(self, batch: ToyBatch) -> Iterator[Loss]:
        yield Loss(F.mse_loss(self.answer(batch.x), batch.y))

    def evaluate(self, batch: ToyBatch, generator: torch.Generator) -> Mapping[str, Tensor]:
        return {"total": F.mse_loss(self.answer(batch.x), batch.y)}


@dataclass(frozen=True)
class Trained:
    """What a rank, or a single process, has after some steps."""

    state: dict[str, Any]
    reports: list[StepReport]
    evaluated: dict[str, float]
    held: int  # values of the parameters that the rank holds


# ---------------------------------------------------------------- steps


def train_each(classes: Sequence[type[Task]], steps: int, shard: int, kind: str = "adamw") -> list[Trained]:
    """Train each task on this rank's pieces of each global batch."""
    with joined() as ranks:
        return [_train(one, steps, ranks, pieces_of(ranks), shard=shard, kind=kind) for one in classes]


def train_alone(task_class: type[Task], steps: int, world_size: int, kind: str = "adamw") -> Trained:
    """Train on the same rows in one process: micro-batch i holds what the ranks' micro-batches i hold."""
    sizes = PIECES[world_size]
    return _train(task_class, steps, Ranks(), lambda batch: _together(batch, sizes), kind=kind)


def pieces_of(ranks: Ranks) -> Any:
    sizes = PIECES[ranks.world_size]

    def pieces(batch: ToyBatch) -> list[ToyBatch]:
        every = iter(split(batch, *[size for own in sizes for size in own]))
        return [[next(every) for _ in own] for own in sizes][ranks.rank]

    return pieces


def _together(batch: ToyBatch, sizes: Sequence[Sequence[int]]) -> list[ToyBatch]:
    every = iter(split(batch, *[size for own in sizes for size in own]))
    ranks = [[next(every) for _ in own] for own in sizes]
    joint = []
    for parts in zip(*ranks, strict=True):
        rows = sum(len(part.ids) for part in parts)
        x, y = torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts])
        joint.append(ToyBatch([id_ for part in parts for id_ in part.ids], x, y, float(rows), rows, rows))
    return joint


def _train(task_class: type[Task], steps: int, ranks: Ranks, pieces: Any, *, kind: str, shard: int = 1) -> Trained:
    torch.manual_seed(3)
    optim = OPTIM.model_copy(update={"kind": kind})
    run: Any = make_run(task_class(), optim=optim, ema_decay=0.9, ranks=ranks, shard=shard)
    reports = []
    for seed in range(steps):
        reports.append(train_step(run, pieces(make_batch(ROWS, seed=seed)), measure=True))
        if seed == 1:  # in the middle: nothing of an evaluation may be left
            values = evaluate(run, [[make_batch(size, seed=size)] for size in (3, 5, 4)])
    parameters = sum(held(parameter).numel() for parameter in run.task.parameters())
    return Trained(gathered(run.state.state_dict(), keep=True), reports, values, parameters)


def round_alike(shape: tuple[int, ...], steps: int) -> dict[str, Tensor]:
    """Update a sharded bf16 tensor and a whole one with the same gradients; return both, whole."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    with joined() as ranks:
        mesh = init_device_mesh("cpu", (ranks.world_size,), mesh_dim_names=("shard",))
        generator = torch.Generator().manual_seed(1)
        start = torch.randn(shape, generator=generator).bfloat16()
        alone = nn.Parameter(start.clone())
        sharded = nn.Parameter(distribute_tensor(start.clone(), mesh, [Shard(0)]))
        group = {"names": ("w",), "lr": 1e-2, "betas": (0.9, 0.99), "weight_decay": 0.1}
        optimizers = [RoundedAdamW([{"params": [p], **group}], eps=1e-8, seed=5) for p in (alone, sharded)]
        for _ in range(steps):
            gradient = torch.randn(shape, generator=generator).bfloat16()
            alone.grad, sharded.grad = gradient, distribute_tensor(gradient, mesh, [Shard(0)])
            for optimizer in optimizers:
                optimizer.step()
        return {"alone": alone.detach(), "sharded": whole(sharded), "start": start}


# ---------------------------------------------------------------- the guard


def meet_poison(task_class: type[Task], max_skips: int, place: str | None) -> dict[str, Any]:
    """Train well, let rank 1 alone draw a batch of NaN, then train well again, through the loop's own recovery.

    The snapshot lies in memory, or on the disk in the folder `place`.
    """
    with joined() as ranks:
        torch.manual_seed(3)
        guard = GuardConfig(max_skips=max_skips)
        run: Any = make_run(task_class(), optim=OPTIM, ema_decay=0.9, ranks=ranks, guard=guard, shard=2)
        run.plan = SimpleNamespace(recipe=SimpleNamespace(guard=SimpleNamespace(exclude=False)))
        run.trackers = SimpleNamespace(incident=lambda *_: None)
        run.folder = Path(os.devnull)
        snapshots = _snapshots(place, ranks)
        pieces = pieces_of(ranks)
        train_step(run, pieces(make_batch(ROWS)))
        snapshots.take(run.state, run.progress.step)
        states = {"held": _copied(run)}
        train_step(run, pieces(make_batch(ROWS, seed=1)))
        states["before"] = _copied(run)
        bad = make_batch(4, seed=2, poison=math.nan if ranks.rank == 1 else None)
        report = train_step(run, [bad])
        written = recovery.Incident.write
        recovery.Incident.write = lambda *_: Path("incident")  # type: ignore[method-assign]
        try:
            recovery.after_refusal(run, report, snapshots, (), again=False)
        finally:
            recovery.Incident.write = written  # type: ignore[method-assign]
        states["after"] = _copied(run)
        train_step(run, pieces(make_batch(ROWS, seed=9)))
        refused = {name: verdict.judgement for name, verdict in report.refused.items()}
        return {"refused": refused, "guard": run.guard.state_dict(), "end": _copied(run), **states}


def _snapshots(place: str | None, ranks: Ranks) -> Any:
    meta = Meta(family="toy", task="toy", model={}, recipe="toy", step=0)
    kind: Any = "memory" if place is None else "disk"
    return snapshot.make(kind, run_folder=Path(place or os.devnull), meta=meta, ranks=ranks, sharded=True)


def _copied(run: Any) -> dict[str, Any]:
    parts = {name: tree for name, tree in run.state.state_dict().items() if name in ("task", "optimizers", "ema")}
    copies: dict[str, Any] = detach_copy(gathered(parts, keep=True))
    return copies


def count_apart() -> str:
    """Let rank 1 count a forward that rank 0 does not run; return what the step says."""
    with joined() as ranks:
        run: Any = make_run(Stack(), optim=OPTIM, ranks=ranks, shard=2)
        new_step = run.shards.new_step

        def beginning() -> None:
            new_step()
            run.shards._forwards += ranks.rank

        run.shards.new_step = beginning
        try:
            train_step(run, pieces_of(ranks)(make_batch(ROWS)))
        except RuntimeError as error:
            return str(error)
        return ""


def drift() -> dict[str, list[str]]:
    """Change one bit on one rank, in rows that another rank holds too, and in a buffer."""
    with joined() as ranks:
        task = Stack()
        task.register_buffer("seen", torch.zeros(3))
        torch.manual_seed(0)
        for parameter in task.parameters():
            nn.init.normal_(parameter)
        run: Any = make_run(task, optim=OPTIM, ranks=ranks, shard=2)
        found = {"nothing": ranks.differ(run.task.state_dict())}
        if ranks.rank == 3:
            held(task.head.weight.detach())[0, 0] += 2**-12
        found["weight"] = ranks.differ(run.task.state_dict())
        if ranks.rank == 2:
            task.seen[1] = 1
        return {**found, "buffer": ranks.differ(run.task.state_dict())}
