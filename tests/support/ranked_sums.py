"""What the ranks of a group do in tests of the sums of gradients: `Processes` runs these functions in each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NoReturn

import torch
from ranked import OPTIM, ROWS, as_dtype, joined, pieces_of, replaced, sum_all, train_in_halves
from subjects import known, make_subject
from torch import Tensor, nn
from toys import Gan, ToyBatch, make_batch, make_run

from ttstrain.contract.task import Loss, Task
from ttstrain.modules import lora
from ttstrain.state import detach_copy
from ttstrain.train import sums
from ttstrain.train.distributed import Ranks
from ttstrain.train.precision import Precision
from ttstrain.train.rng import Rng
from ttstrain.train.step import train_step
from ttstrain.train.sums import GradientSums

BUCKET_BYTES = 40  # a layer of the toys has several buckets


class PlainSums(GradientSums):
    """Sums one gradient after the other once the backward pass has ended: what the others are held to."""

    @contextmanager
    def beginning(self, ranks: Ranks, name: str, parameters: Sequence[Tensor]) -> Iterator[None]:
        yield
        self._parameters = parameters

    def finish(self, ranks: Ranks, *, fits: bool = True) -> bool:
        for parameter in self._parameters:
            if int(ranks.sum(torch.tensor(int(parameter.grad is not None)))):
                own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = ranks.sum(own.detach().float().clone()).to(parameter.dtype)
        return ranks.all_fit(fits)


@contextmanager
def counted() -> Iterator[dict[str, int]]:
    """Count the sums that begin, and those that begin while a backward pass computes."""
    counts = {"all": 0, "early": 0}
    backward, begin_sum, passes = Precision.backward, Ranks.begin_sum, [False]

    def computing(self: Precision, *args: Any, **kwargs: Any) -> None:
        passes[0] = True
        try:
            backward(self, *args, **kwargs)
        finally:
            passes[0] = False

    def counting(self: Ranks, values: Tensor) -> Callable[[], None]:
        counts["all"] += 1
        counts["early"] += passes[0]
        return begin_sum(self, values)

    with replaced(Precision, "backward", computing), replaced(Ranks, "begin_sum", counting):
        yield counts


# ---------------------------------------------------------------- overlapped and plain


def train_both(cases: Sequence[tuple[type[Task], torch.dtype, str]], steps: int) -> list[dict[str, Any]]:
    """Train each (task, dtype of weights, precision) twice, with sums that overlap and with plain ones."""
    with joined() as ranks, replaced(sums, "BUCKET_BYTES", BUCKET_BYTES):
        return [_both(lambda own, case=case: _train(own, case, ranks=ranks, steps=steps)) for case in cases]


def _both(train: Callable[[GradientSums], dict[str, Any]]) -> dict[str, Any]:
    with counted() as counts:
        overlapped = train(GradientSums())
    return {"overlapped": overlapped, "plain": train(PlainSums()), **counts}


def _train(own: GradientSums, case: tuple[type[Task], torch.dtype, str], *, ranks: Ranks, steps: int) -> dict[str, Any]:
    task_class, dtype, precision = case
    torch.manual_seed(3)
    run = make_run(task_class().to(dtype), optim=OPTIM, precision=precision, ema_decay=0.9, ranks=ranks)
    run.sums = own
    for seed in range(steps):
        pieces = pieces_of(make_batch(ROWS, seed=seed))[ranks.rank]
        train_step(run, [as_dtype(piece, dtype) for piece in pieces[ranks.rank :]])  # the second rank has one less
    return detach_copy(run.state.state_dict())


def train_subject(smoke: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Take a step with a smoke recipe's task, the first rank on two micro-batches, the second on one."""
    with joined() as ranks, known(smoke), replaced(sums, "BUCKET_BYTES", 2**16):
        subject = make_subject(smoke, overrides)
        first, second, third, *_ = subject.clips
        own = [subject.batch([clip]) for clip in ([first, second] if ranks.main else [third])]

        def train(own_sums: GradientSums) -> dict[str, Any]:
            task = subject.build()
            if subject.recipe.lora is not None:
                lora.add_lora(task.exported(), subject.recipe.lora, default_targets=subject.planner.lora_targets())
            run = make_run(task, optim=subject.recipe.optim, ranks=ranks, total_steps=10)
            run.sums = own_sums
            Rng(torch.device("cpu")).seed(0, rank=ranks.rank)
            assert not train_step(run, own).refused
            return detach_copy({"weights": run.task.state_dict(), "optimizers": run.optimizers.state_dict()})

        return _both(train)


def sum_mixture() -> dict[str, Tensor | None]:
    """Sum gradients of every kind: large, small, half, of another memory layout, missing here, there, everywhere."""
    shapes = {"large": (600, 500), "small": (3,), "half": (2, 2), "last": (2, 3, 4, 5), "mine": (4,), "none": (5,)}
    shapes |= {"large and mine": (700, 500), "large and none": (1, 2**19), "large half": (2**10, 2**10)}
    with joined() as ranks, replaced(sums, "LARGE_BYTES", 2**20), replaced(sums, "BUCKET_BYTES", 2**18):
        parameters = {
            name: nn.Parameter(torch.zeros(shape, dtype=torch.bfloat16 if "half" in name else torch.float32))
            for name, shape in shapes.items()
        }
        for name, parameter in parameters.items():
            if "none" not in name and ("mine" not in name or ranks.rank == 1):
                parameter.grad = mixture_gradient(parameter, ranks.rank)
        parameters["last"].grad = parameters["last"].grad.to(memory_format=torch.channels_last)
        sum_all(ranks, list(parameters.values()))
        return {name: parameter.grad for name, parameter in parameters.items()}


def mixture_gradient(like: Tensor, rank: int) -> Tensor:
    return torch.arange(like.numel()).remainder(64).float().reshape(like.shape).mul(rank + 1).to(like.dtype)


# ---------------------------------------------------------------- errors in a backward pass


class _Failing(torch.autograd.Function):
    """Pass a tensor on; fail in the backward pass."""

    @staticmethod
    def forward(context: Any, value: Tensor, fail: Callable[[], NoReturn]) -> Tensor:
        context.fail = fail
        return value.view_as(value)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Any:
        context.fail()


class Deep(Task):
    """Layers, with a place between them where a backward pass may fail."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 8)
        self.third, self.last = nn.Linear(8, 8), nn.Linear(8, 3)

    def half_way(self, hidden: Tensor, batch: ToyBatch) -> Tensor:
        return hidden

    def losses(self, batch: ToyBatch) -> Iterator[Loss]:
        hidden = self.half_way(torch.tanh(self.second(torch.tanh(self.first(batch.x)))), batch)
        yield Loss((self.last(torch.tanh(self.third(hidden))) - batch.y).square().mean())

    def evaluate(self, batch: ToyBatch, generator: torch.Generator) -> dict[str, Tensor]:
        raise NotImplementedError("this task is only trained, never evaluated")


def meet_memory_half_way(size: int, at_rank: int, sizes: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Train; one rank's memory runs out half-way back through micro-batches of so many rows."""
    with joined() as ranks, replaced(sums, "BUCKET_BYTES", BUCKET_BYTES), counted() as counts:

        def run_out() -> NoReturn:
            counts["before"] = counts["early"]
            raise torch.OutOfMemoryError("CUDA out of memory")

        class Cramped(Deep):
            def half_way(self, hidden: Tensor, batch: ToyBatch) -> Tensor:
                out: Tensor = hidden
                if ranks.rank == at_rank and len(batch.ids) == size:
                    out = _Failing.apply(hidden, run_out)
                return out

        return {**train_in_halves(Cramped, ranks, sizes), **counts}


def meet_memory_in_the_second_of_two(size: int, at_rank: int) -> dict[str, Any]:
    """Train a GAN; one rank's memory runs out in the generator's backward pass, when the other has stepped."""
    with joined() as ranks, replaced(sums, "BUCKET_BYTES", BUCKET_BYTES):

        def run_out() -> NoReturn:
            raise torch.OutOfMemoryError("CUDA out of memory")

        class Cramped(Gan):
            def losses(self, batch: ToyBatch) -> Iterator[Loss]:
                for loss in super().losses(batch):
                    fails = loss.updates == "generator" and ranks.rank == at_rank and len(batch.ids) == size
                    yield replace(loss, value=_Failing.apply(loss.value, run_out)) if fails else loss

        return train_in_halves(Cramped, ranks)


def fail_half_way(at_rank: int) -> None:
    """Train; one rank meets a fault of the program half-way back."""
    with joined() as ranks, replaced(sums, "BUCKET_BYTES", BUCKET_BYTES):

        def fail() -> NoReturn:
            raise ValueError("broken")

        class Broken(Deep):
            def half_way(self, hidden: Tensor, batch: ToyBatch) -> Tensor:
                out: Tensor = _Failing.apply(hidden, fail) if ranks.rank == at_rank else hidden
                return out

        run = make_run(Broken(), ranks=ranks)
        train_step(run, pieces_of(make_batch(ROWS))[ranks.rank])
