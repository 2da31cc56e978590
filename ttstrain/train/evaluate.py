"""What a run is measured by: held-out losses on fixed noise, and speech a person can listen to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ttstrain.errors import OutOfMemoryError, is_out_of_memory
from ttstrain.task import Batch, Mean
from ttstrain.train.run import Run
from ttstrain.train.signals import Hurried

Pieces = list[Batch]  # a micro-batch, in as many pieces as memory asked for
EVALUATION_SEED = 20_240_229  # any constant: the same noise at every evaluation of every run


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


def evaluate(
    run: Run,
    batches: Sequence[Pieces],
    retained: Sequence[Pieces] = (),
    *,
    stage: Sequence[Pieces] | None = None,
    hurried: Callable[[], bool] = never,
) -> dict[str, float]:
    """Return `eval/loss/<name>` of the weights and `eval/ema_loss/<name>` of their average.

    Of `retained`, batches of what must not be forgotten, `eval/retention/<name>` and `eval/ema_retention/<name>`; of
    `stage`, those of the running stage, `eval/stage/<name>`. Ranks share the batches. Training's random numbers are
    left as they were. Batches that do not fit in memory are divided for good; raises OutOfMemoryError, on every rank,
    where a single clip does not fit, and Hurried, on every rank, where `hurried` says so between two batches.
    """
    with run.optimizers.evaluating():  # before the average comes in, which no optimizer may move
        values = {f"eval/loss/{name}": loss for name, loss in _losses(run, batches, hurried).items()}
        values |= {f"eval/retention/{name}": loss for name, loss in _losses(run, retained, hurried).items()}
        if stage is not None:
            values |= {f"eval/stage/{name}": loss for name, loss in _losses(run, stage, hurried).items()}
        if run.ema is not None:
            with run.ema.swapped_in(run.task.exported()):
                values |= {f"eval/ema_loss/{name}": loss for name, loss in _losses(run, batches, hurried).items()}
                values |= {f"eval/ema_retention/{name}": loss for name, loss in _losses(run, retained, hurried).items()}
    if run.ema is not None:
        values["ema/distance"] = float(run.ema.distance(run.task.exported()))
    return values


def _losses(run: Run, batches: Sequence[Pieces], hurried: Callable[[], bool]) -> dict[str, float]:
    if not batches:
        return {}
    sums: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}
    own = [(i, pieces) for i, pieces in enumerate(batches) if i % run.ranks.world_size == run.ranks.rank]
    fits, left = True, False
    with run.rng.preserved(), evaluating(run.task):
        for i, pieces in own:
            generator = torch.Generator().manual_seed(EVALUATION_SEED + i)
            at = 0
            left = left or hurried()
            while fits and not left and at < len(pieces):
                if _add(run, pieces[at], generator, sums, counts):
                    at += 1
                else:
                    fits = _divide(run, pieces, at)
    if not run.ranks.all_fit(fits):
        raise OutOfMemoryError(
            f"the evaluation after step {run.progress.step} did not fit in memory, clip by clip",
            hint="hold shorter clips out (`data.max_s`), or set `eval.every=null`",
        )
    if not run.ranks.all_fit(not left):
        raise Hurried
    return _mean(run, sums, counts)


def _add(
    run: Run, batch: Batch, generator: torch.Generator, sums: dict[str, Tensor], counts: dict[str, Tensor]
) -> bool:
    """Add a batch's losses, weighted; False, with the noise taken back, where memory ran out."""
    noise = generator.get_state()
    try:
        with run.precision.autocast():
            losses = run.task.evaluate(batch.to(run.device), generator)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        generator.set_state(noise)
        return False
    weight = torch.tensor(batch.weight, dtype=torch.float64, device=run.device)
    for name, value in losses.items():
        mean = value if isinstance(value, Mean) else Mean(value.detach().double() * weight, weight)
        sums[name] = sums.get(name, 0.0) + mean.total.double()
        counts[name] = counts.get(name, 0.0) + mean.count.double()
    return True


def _divide(run: Run, pieces: Pieces, at: int) -> bool:
    """Put two halves in the place of a batch; False for a single clip."""
    if run.device.type == "cuda":
        torch.cuda.empty_cache()
    half = run.loader.half_of(pieces[at])
    if half is None:
        return False
    pieces[at : at + 1] = run.loader.divided(pieces[at], limit=half)
    if run.ranks.main:
        run.trackers.note("a held-out micro-batch did not fit in memory: evaluated in pieces from here on")
    return True


def _mean(run: Run, sums: Mapping[str, Tensor], counts: Mapping[str, Tensor]) -> dict[str, float]:
    """Divide over all ranks; what no batch held is left out."""
    names = sorted({name for own in run.ranks.gather(sorted(sums)) for name in own})
    zero = torch.zeros((), dtype=torch.float64, device=run.device)
    stacked = torch.stack([table.get(name, zero) for table in (sums, counts) for name in names])
    values = run.ranks.sum(stacked).tolist()
    pairs = zip(names, values[: len(names)], values[len(names) :], strict=True)
    return {name: total / count for name, total, count in pairs if count}
