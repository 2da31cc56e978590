"""What the ranks of a group do in tests: `Processes` runs these functions in each of them."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toys import Regression, ToyBatch, make_batch, make_run, split

from ttstrain.contract.task import Loss, Task
from ttstrain.data import cache
from ttstrain.data.loader import Loader
from ttstrain.recipe.compose import compose
from ttstrain.recipe.schema import GuardConfig, OptimConfig
from ttstrain.runs import assemble, new, processes
from ttstrain.runs.resume import resume as go_on
from ttstrain.train import build, distributed, loop, measure, prepare, previews, recovery, signals
from ttstrain.train.checksum import checksums
from ttstrain.train.device import choose_device
from ttstrain.train.distributed import Ranks
from ttstrain.train.evaluate import evaluate
from ttstrain.train.run import Run
from ttstrain.train.snapshot import MemorySnapshots
from ttstrain.train.step import StepReport, train_step
from ttstrain.train.sums import GradientSums

OPTIM = OptimConfig(lr=1e-2, weight_decay=0.1, decay_norms_and_biases=True, max_grad_norm=0.5)
ROWS = 12
PIECES = ((3, 2), (6, 1))  # rank -> rows in each of its micro-batches


@contextmanager
def joined() -> Iterator[Ranks]:
    ranks = distributed.join()
    try:
        yield ranks
    finally:
        distributed.leave()


def weights(run: Any) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in run.task.state_dict().items()}


# ---------------------------------------------------------------- steps


@dataclass(frozen=True)
class Trained:
    """What a rank, or a single process, has after some steps."""

    weights: dict[str, Tensor]
    average: dict[str, Tensor]
    moments: dict[str, Any]
    reports: list[StepReport]
    progress: dict[str, int]


def train_toy(task_class: type[Task], steps: int) -> Trained:
    """Train on this rank's pieces of each global batch."""
    with joined() as ranks:
        return _train(task_class, steps, ranks, lambda batch: pieces_of(batch)[ranks.rank])


def train_toy_alone(task_class: type[Task], steps: int) -> Trained:
    """Train on the same rows in one process: micro-batch i holds what the ranks' micro-batches i hold."""
    return _train(
        task_class, steps, Ranks(), lambda batch: [_joined(parts) for parts in zip(*pieces_of(batch), strict=True)]
    )


def train_unevenly(task_class: type[Task], steps: int) -> Trained:
    """Train on pieces of 3 and 2 rows on one rank, and on the other 7 rows in one piece on the other."""
    with joined() as ranks:
        mine = slice(0, 2) if ranks.main else slice(2, 3)
        return _train(task_class, steps, ranks, lambda batch: split(batch, 3, 2, 7)[mine])


def train_unevenly_alone(task_class: type[Task], steps: int) -> Trained:
    """Train on the same rows in one process: its last micro-batch holds those of the ranks' last ones."""
    return _train(task_class, steps, Ranks(), lambda batch: split(batch, 3, 9))


def _train(task_class: type[Task], steps: int, ranks: Ranks, share_of: Any) -> Trained:
    torch.manual_seed(3)
    run = make_run(task_class(), optim=OPTIM, ema_decay=0.9, ranks=ranks)
    reports = [train_step(run, share_of(make_batch(ROWS, seed=seed)), measure=True) for seed in range(steps)]
    return Trained(
        weights(run), dict(run.ema.state_dict()["weights"]), run.optimizers.state_dict(), reports, vars_of(run.progress)
    )


def train_with_each(kinds: Sequence[tuple[str, torch.dtype, str]], steps: int) -> list[dict[str, list[int]]]:
    """Train with each (optimizer, dtype of the weights, precision); return checksums of all that a step changes."""
    with joined() as ranks:
        return [_train_with(ranks, kind, dtype, precision, steps) for kind, dtype, precision in kinds]


def _train_with(ranks: Ranks, kind: str, dtype: torch.dtype, precision: str, steps: int) -> dict[str, list[int]]:
    torch.manual_seed(3)
    task = Regression().to(dtype)
    optim = OPTIM.model_copy(update={"kind": kind})
    run = make_run(task, optim=optim, precision=precision, ema_decay=0.9, ranks=ranks)
    torch.manual_seed(ranks.rank)  # as in a run, where noise is each rank's own
    start = weights(run)
    for seed in range(steps):
        train_step(run, [as_dtype(piece, dtype) for piece in pieces_of(make_batch(ROWS, seed=seed))[ranks.rank]])
    moments = [value for own in run.optimizers.state_dict()["model"].values() for value in own.values()]
    return {
        "moved": [name for name, tensor in weights(run).items() if not torch.equal(tensor, start[name])],
        "weights": checksums(weights(run).values()).tolist(),
        "average": checksums(run.ema.state_dict()["weights"].values()).tolist(),
        "moments": checksums(torch.as_tensor(value) for value in moments).tolist(),
    }


def as_dtype(batch: ToyBatch, dtype: torch.dtype) -> ToyBatch:
    return replace(batch, x=batch.x.to(dtype))


def vars_of(progress: Any) -> dict[str, int]:
    return dict(progress.state_dict())


def pieces_of(batch: ToyBatch, sizes: Sequence[Sequence[int]] = PIECES) -> list[list[ToyBatch]]:
    pieces = iter(split(batch, *[size for own in sizes for size in own]))
    return [[next(pieces) for _ in own] for own in sizes]


def _joined(parts: Sequence[ToyBatch]) -> ToyBatch:
    return ToyBatch(
        ids=[id_ for part in parts for id_ in part.ids],
        x=torch.cat([part.x for part in parts]),
        y=torch.cat([part.y for part in parts]),
        weight=sum(part.weight for part in parts),
        num_frames=sum(part.num_frames for part in parts),
        num_padded=sum(part.num_padded for part in parts),
    )


class Sparse(Task):
    """Uses `rare` for clips whose first feature is above one, and `never` for none."""

    def __init__(self) -> None:
        super().__init__()
        self.often, self.rare, self.never = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(4, 3)

    def losses(self, batch: ToyBatch) -> Iterator[Loss]:
        rows = batch.x[:, 0] > 1
        error = (self.often(batch.x) - batch.y).square().sum()
        if rows.any():
            error = error + (self.rare(batch.x[rows]) - batch.y[rows]).square().sum()
        yield Loss(error / len(batch.x))

    def evaluate(self, batch: ToyBatch, generator: torch.Generator) -> Mapping[str, Tensor]:
        return {"total": F.mse_loss(self.often(batch.x), batch.y)}


def sum_all(ranks: Ranks, parameters: Sequence[Tensor]) -> None:
    """Sum gradients that no backward pass completes."""
    sums = GradientSums()
    with sums.beginning(ranks, "model", parameters):
        pass
    assert sums.finish(ranks)


def exchange_on_gpus() -> dict[str, Any]:
    """Sum on this rank's GPU over NCCL, and numbers and objects of the host over gloo."""
    with joined() as ranks:
        device = choose_device("cuda", tf32=True, ranks=ranks)
        parameters = [nn.Parameter(torch.zeros(shape, device=device)) for shape in ((600, 500), (3,), (2,))]
        for parameter in parameters[: 2 + ranks.rank]:
            parameter.grad = torch.full_like(parameter, 1.0 + ranks.rank)
        sum_all(ranks, parameters)
        return {
            "device": device.index,
            "gradients": [float(parameter.grad.max()) for parameter in parameters],
            "host": ranks.sum(torch.ones(1)).tolist(),
            "gathered": ranks.gather({"rank": ranks.rank}),
            "differ": ranks.differ({str(i): parameter for i, parameter in enumerate(parameters)}),
        }


# ---------------------------------------------------------------- the guard


def meet_poison(task_class: type[Task], poison: float, max_skips: int) -> dict[str, Any]:
    """Train well, then let rank 1 alone draw a bad batch, then train well again, through the loop's own recovery."""
    with joined() as ranks:
        torch.manual_seed(3)
        run = make_run(task_class(), optim=OPTIM, ema_decay=0.9, ranks=ranks, guard=GuardConfig(max_skips=max_skips))
        run.plan = SimpleNamespace(recipe=SimpleNamespace(guard=SimpleNamespace(exclude=False)))
        run.trackers = SimpleNamespace(incident=lambda *_: None)
        run.folder = Path(os.devnull)
        incidents: list[Any] = []
        snapshots = MemorySnapshots()
        train_step(run, [_own(make_batch(8), ranks)])
        snapshots.take(run.state, run.progress.step)
        held = weights(run)
        train_step(run, [_own(make_batch(8, seed=1), ranks)])
        before = weights(run)
        bad = make_batch(4, seed=2 + ranks.rank, poison=poison if ranks.rank == 1 else None)
        report = train_step(run, [bad])
        with replaced(recovery.Incident, "write", lambda self, _: incidents.append(self) or Path("incident")):
            recovery.after_refusal(
                run, report, snapshots, (), again=False
            )  # the part of the loop that a refusal reaches
        after = weights(run)
        train_step(run, [_own(make_batch(8, seed=9), ranks)])
        return {
            "refused": {name: verdict.judgement for name, verdict in report.refused.items()},
            "stepped": list(report.stepped),
            "incidents": [(incident.action, sorted(incident.clips), incident.restored_step) for incident in incidents],
            "held": held,
            "before": before,
            "after": after,
            "end": weights(run),
            "guard": run.guard.state_dict(),
        }


def meet_memory(task_class: type[Task], size: int, at_rank: int) -> dict[str, Any]:
    """Train; one rank's memory runs out after the first loss of a micro-batch of so many rows."""
    with joined() as ranks:

        class Cramped(task_class):  # type: ignore[misc, valid-type]
            def losses(self, batch: ToyBatch) -> Iterator[Loss]:
                for loss in super().losses(batch):
                    yield loss
                    if ranks.rank == at_rank and len(batch.ids) == size:
                        raise torch.OutOfMemoryError("CUDA out of memory")

        return train_in_halves(Cramped, ranks)


def train_in_halves(task_class: type[Task], ranks: Ranks, sizes: Sequence[Sequence[int]] = PIECES) -> dict[str, Any]:
    """Take three steps through the loop's own recovery, which halves micro-batches that do not fit."""
    torch.manual_seed(3)
    run = make_run(task_class(), optim=OPTIM, ema_decay=0.9, ranks=ranks)
    train = SimpleNamespace(measure_every=10)
    run.plan = SimpleNamespace(recipe=SimpleNamespace(train=train))
    notes: list[str] = []
    run.trackers = SimpleNamespace(incident=lambda step, kind, message: notes.append(message))
    run.folder, run.loader = Path(os.devnull), _Halves()
    snapshots = MemorySnapshots()
    snapshots.take(run.state, 0)
    taken = []
    with replaced(recovery.Incident, "write", lambda *_: Path("incident")):
        for seed in range(3):
            own = pieces_of(make_batch(ROWS, seed=seed), sizes)[ranks.rank]
            pieces = [piece for batch in own for piece in run.loader.divided(batch)]
            taken.append(loop.take_step(run, pieces, snapshots)[0] is not None)
    return {"taken": taken, "limit": run.loader.limit, "weights": weights(run), "notes": notes}


class _Halves:
    """Divides toy batches, of which every row takes one frame."""

    limit: int | None = None

    def half_of(self, batch: ToyBatch) -> int | None:
        return (len(batch.ids) + 1) // 2 if len(batch.ids) > 1 else None

    def limit_to(self, frames: int) -> None:
        self.limit = frames

    def divided(self, batch: ToyBatch, *, limit: int | None = None) -> list[ToyBatch]:
        size, limit = len(batch.ids), limit or self.limit
        if limit is None or size <= limit:
            return [batch]
        halves = split(batch, (size + 1) // 2, size // 2)
        return [piece for half in halves for piece in self.divided(half, limit=limit)]


def _own(batch: ToyBatch, ranks: Ranks) -> ToyBatch:
    return split(batch, *[len(batch.ids) // ranks.world_size] * ranks.world_size)[ranks.rank]


# ---------------------------------------------------------------- evaluation and agreement


def evaluate_toy(task_class: type[Task], sizes: Sequence[int]) -> dict[str, float]:
    with joined() as ranks:
        return evaluate_with(ranks, task_class, sizes)


def evaluate_with(ranks: Ranks, task_class: type[Task], sizes: Sequence[int]) -> dict[str, float]:
    torch.manual_seed(4)
    run: Any = make_run(task_class(), ema_decay=0.5, ranks=ranks)
    run.ema.update(1)
    return evaluate(run, [[make_batch(size, seed=seed)] for seed, size in enumerate(sizes)])


def exchange() -> dict[str, Any]:
    with joined() as ranks:
        own = {"rank": ranks.rank, "tensor": torch.full((2,), float(ranks.rank))}
        drifted = {"same": torch.ones(3), "apart": torch.ones(2), "flag": torch.zeros(2, dtype=torch.bool)}
        drifted["apart"][ranks.rank] += 2**-20  # one bit each, and the same norm
        with replaced(distributed, "_kind_of", lambda _: f"card {ranks.rank}"):
            by_norm = ranks.differ({**drifted, "far": torch.ones(4) + ranks.rank})
        return {
            "gathered": ranks.gather(own),
            "broadcast": ranks.broadcast(own),
            "sum": ranks.sum(torch.tensor([1.0 + ranks.rank])),
            "same": ranks.differ({"a": torch.ones(3), "b": torch.tensor(math.nan)}),
            "drifted": ranks.differ(drifted),
            "drifted between cards of two kinds": by_norm,
        }


# ---------------------------------------------------------------- whole runs


def finetune(recipe: Path, *overrides: str) -> Path:
    return new.start(compose(recipe, list(overrides)))


def resume(run: Path, *overrides: str) -> Path:
    return go_on(run, list(overrides))


def finetune_and_tell(recipe: Path, *overrides: str) -> dict[str, Any]:
    """Train and return what this rank holds at the end."""
    kept: list[Run] = []
    build_run = build.build

    def keep(*args: Any, **kwargs: Any) -> Run:
        kept.append(build_run(*args, **kwargs))
        return kept[0]

    with replaced(build, "build", keep):
        folder = finetune(recipe, *overrides)
    (run,) = kept
    return {
        "folder": folder,
        "weights": weights(run),
        "best": run.best.state_dict(),
        "progress": run.progress.state_dict(),
        "rng": torch.get_rng_state(),
    }


def finetune_counting(recipe: Path, *overrides: str) -> dict[str, int]:
    """Train and return how often this rank looked through the data and computed features."""
    counts = {"audits": 0, "features": 0}
    audit, build_one = prepare.audit_data, cache._build_one

    def auditing(*args: Any, **kwargs: Any) -> Any:
        counts["audits"] += 1
        return audit(*args, **kwargs)

    def building(*args: Any, **kwargs: Any) -> Any:
        counts["features"] += 1
        return build_one(*args, **kwargs)

    with replaced(prepare, "audit_data", auditing), replaced(cache, "_build_one", building):
        finetune(recipe, *overrides)
    return counts


def finetune_stopped(on_rank: int, at_step: int, run: Path, recipe: Path, *overrides: str) -> dict[str, Any]:
    """Train; the run is asked to stop through a file, which one rank alone sees."""

    def ask(loader: Loader) -> None:
        if loader.rank == on_rank:
            (run / "STOP").touch()

    with replaced(signals, "POLL_S", 0.0 if int(os.environ["RANK"]) == on_rank else 1e9), _at(at_step, ask):
        return finetune_and_tell(recipe, *overrides)


def finetune_signalled(number: signal.Signals, on_rank: int, at_step: int, recipe: Path, *overrides: str) -> Path:
    """Train; while one rank alone waits for its data, it is sent a signal."""
    with _at(at_step, lambda loader: os.kill(os.getpid(), number) if loader.rank == on_rank else None):
        return finetune(recipe, *overrides)


def finetune_signalled_twice(number: signal.Signals, on_rank: int, at_step: int, recipe: Path, *overrides: str) -> Path:
    """Train; one rank alone is sent a signal before that step, and another in the evaluation after it."""
    evaluate = measure.evaluate

    def signalled(run: Run, *args: Any, **kwargs: Any) -> Any:
        if run.progress.step == at_step and run.ranks.rank == on_rank:
            os.kill(os.getpid(), number)
        return evaluate(run, *args, **kwargs)

    measure.evaluate = signalled
    try:
        return finetune_signalled(number, on_rank, at_step, recipe, *overrides)
    finally:
        measure.evaluate = evaluate


def finetune_asked_to_speak(at_step: int, text: str, run: Path, recipe: Path, *overrides: str) -> Path:
    """Train; before a step the first rank finds a request for a sample."""

    def ask(loader: Loader) -> None:
        if loader.rank == 0:
            (run / "SAMPLE").write_text(text, encoding="utf-8")

    with replaced(signals, "POLL_S", 0.0), _at(at_step, ask):
        return finetune(recipe, *overrides)


def finetune_signalled_speaking(number: signal.Signals, at_step: int, recipe: Path, *overrides: str) -> Path:
    """Train; the first rank, which speaks alone, is sent a signal before it speaks after that step."""
    generate = previews._generate_all

    def signalled(run: Run, *args: Any, **kwargs: Any) -> Any:
        if run.progress.step == at_step:
            os.kill(os.getpid(), number)
        return generate(run, *args, **kwargs)

    with replaced(previews, "_generate_all", signalled):
        return finetune(recipe, *overrides)


def finetune_poisoned(on_rank: int, at_step: int, recipe: Path, *overrides: str) -> Path:
    """Train; one rank alone reads one batch of NaN."""

    def spoil(loader: Loader, batches: list[Any]) -> list[Any]:
        if loader.rank != on_rank:
            return batches
        return [replace(batch, mel=torch.full_like(batch.mel, torch.nan)) for batch in batches]

    with _at(at_step, lambda _: None, change=spoil):
        return finetune(recipe, *overrides)


def finetune_broken(on_rank: int, where: str, error: BaseException, recipe: Path, *overrides: str) -> Path:
    """Train; one rank alone fails in a function of the engine."""
    module, name = {
        "device": (processes, "choose_device"),
        "build": (build, "build"),
        "trackers": (assemble, "build_trackers"),
        "step": (loop, "train_step"),
    }[where]
    function = getattr(module, name)

    def fail(*args: Any, **kwargs: Any) -> Any:
        if int(os.environ["RANK"]) == on_rank:
            raise error
        return function(*args, **kwargs)

    with replaced(module, name, fail):
        return finetune(recipe, *overrides)


@contextmanager
def _at(step: int, act: Any, *, change: Any = None) -> Iterator[None]:
    read, calls = Loader.next, []

    def reading(self: Loader, micro_batches: int = 1) -> list[Any]:
        batches = read(self, micro_batches)
        calls.append(self)
        if len(calls) == step:
            act(self)
            return change(self, batches) if change is not None else batches
        return batches

    with replaced(Loader, "next", reading):
        yield


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    former = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, former)
