"""The one loop over held-out batches: eval mode, no gradients, and noise that depends only on a batch's number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn

from ttstrain.contract.data import Batch
from ttstrain.contract.task import Mean, Task
from ttstrain.errors import OutOfMemoryError, is_out_of_memory
from ttstrain.train.distributed import Ranks
from ttstrain.train.signals import Hurried

T = TypeVar("T")
Pieces = list[Batch]  # a micro-batch, in as many pieces as memory asked for
EVALUATION_SEED = 20_240_229  # any constant: the same noise at every evaluation of every run
ALONE = Ranks()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module in eval mode without gradients, and every part back as it was, whatever happens."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training


def never() -> bool:
    """Be in no hurry."""
    return False


def evaluate_batches(
    task: Task,
    batches: Iterable[Pieces],
    compute: Callable[[Batch, torch.Generator], T],
    *,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[None]] = nullcontext,
    ranks: Ranks = ALONE,
    divide: Callable[[Pieces, int], bool] | None = None,
    hurried: Callable[[], bool] = never,
    what: str = "the evaluation",
) -> list[T]:
    """Return what `compute` makes of each piece of this rank's batches, on `device`, in their order.

    The generator of batch `i` is seeded with EVALUATION_SEED + `i`, whichever rank has it; a batch's pieces draw from
    it in turn. `divide` puts smaller pieces in the place of one that does not fit in memory, and returns False where it
    cannot; without it torch's error is raised. Raises OutOfMemoryError, on every rank, where `divide` could not, and
    Hurried, on every rank, where `hurried` says so before the first or any further batch.
    """

    def one(batch: Batch, generator: torch.Generator) -> T:
        with autocast():
            return compute(batch.to(device), generator)

    computed: list[T] = []
    fits, left = True, hurried()  # a rank may have no batch to be asked before
    with evaluating(task):
        for i, pieces in enumerate(batches):
            if i % ranks.world_size != ranks.rank:
                continue
            left = left or hurried()
            if left or not fits:
                break
            generator = torch.Generator().manual_seed(EVALUATION_SEED + i)
            at = 0
            while fits and at < len(pieces):
                if divide is None:
                    computed.append(one(pieces[at], generator))
                elif found := _tried(one, pieces[at], generator):
                    computed += found
                else:
                    fits = divide(pieces, at)
                    continue
                at += 1
    if not ranks.all_fit(fits):
        raise OutOfMemoryError(
            f"{what} did not fit in memory, clip by clip",
            hint="hold shorter clips out (`data.max_s`), or set `eval.every=null`",
        )
    if not ranks.all_fit(not left):
        raise Hurried
    return computed


def _tried(compute: Callable[[Batch, torch.Generator], T], batch: Batch, generator: torch.Generator) -> list[T]:
    """Return one value; none, with the noise taken back, where memory ran out."""
    noise = generator.get_state()
    try:
        return [compute(batch, generator)]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        generator.set_state(noise)
        return []


# ---------------------------------------------------------------- losses


def weighted(losses: Mapping[str, Tensor | Mean], weight: float) -> dict[str, Mean]:
    """Return each loss of a batch as a sum and its count, in float64, on its device; a plain one weighs `weight`."""
    return {name: _as_mean(value, weight) for name, value in losses.items()}


def _as_mean(value: Tensor | Mean, weight: float) -> Mean:
    if isinstance(value, Mean):
        return Mean(value.total.double(), value.count.double())
    count = torch.tensor(weight, dtype=torch.float64, device=value.device)
    return Mean(value.detach().double() * count, count)


def mean_losses(parts: Sequence[Mapping[str, Mean]], *, device: torch.device, ranks: Ranks = ALONE) -> dict[str, float]:
    """Return the mean of each loss over all batches of all ranks; a loss that no batch counted is left out."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}
    for part in parts:
        for name, mean in part.items():
            sums[name] = sums[name] + mean.total if name in sums else mean.total
            counts[name] = counts[name] + mean.count if name in counts else mean.count
    names = sorted({name for own in ranks.gather(sorted(sums)) for name in own})
    zero = torch.zeros((), dtype=torch.float64, device=device)
    stacked = torch.stack([table.get(name, zero) for table in (sums, counts) for name in names])
    values = ranks.sum(stacked).tolist()
    pairs = zip(names, values[: len(names)], values[len(names) :], strict=True)
    return {name: total / count for name, total, count in pairs if count}
