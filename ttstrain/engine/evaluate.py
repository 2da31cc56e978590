"""What a run is measured by: held-out losses on fixed noise, and speech a person can listen to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ttstrain.engine.run import Run
from ttstrain.task import Batch, Mean

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


def evaluate(run: Run, batches: Sequence[Batch], retained: Sequence[Batch] = ()) -> dict[str, float]:
    """Return `eval/loss/<name>` of the weights and `eval/ema_loss/<name>` of their average.

    Of `retained`, batches of what must not be forgotten, `eval/retention/<name>` and `eval/ema_retention/<name>`. Ranks
    share the batches. Training's random numbers are left as they were.
    """
    values = {f"eval/loss/{name}": loss for name, loss in _losses(run, batches).items()}
    values |= {f"eval/retention/{name}": loss for name, loss in _losses(run, retained).items()}
    if run.ema is not None:
        with run.ema.swapped_in(run.task.exported()):
            values |= {f"eval/ema_loss/{name}": loss for name, loss in _losses(run, batches).items()}
            values |= {f"eval/ema_retention/{name}": loss for name, loss in _losses(run, retained).items()}
        values["ema/distance"] = float(run.ema.distance(run.task.exported()))
    return values


def _losses(run: Run, batches: Sequence[Batch]) -> dict[str, float]:
    if not batches:
        return {}
    generator = torch.Generator()
    sums: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}
    with run.rng.preserved(), run.optimizers.evaluating(), evaluating(run.task):
        for i, batch in enumerate(batches):
            if i % run.ranks.world_size != run.ranks.rank:
                continue
            generator.manual_seed(EVALUATION_SEED + i)
            with run.precision.autocast():
                losses = run.task.evaluate(batch.to(run.device), generator)
            weight = torch.tensor(batch.weight, dtype=torch.float64, device=run.device)
            for name, value in losses.items():
                mean = value if isinstance(value, Mean) else Mean(value.detach().double() * weight, weight)
                sums[name] = sums.get(name, 0.0) + mean.total.double()
                counts[name] = counts.get(name, 0.0) + mean.count.double()
    return _mean(run, sums, counts)


def _mean(run: Run, sums: Mapping[str, Tensor], counts: Mapping[str, Tensor]) -> dict[str, float]:
    """Divide over all ranks; what no batch held is left out."""
    names = sorted({name for own in run.ranks.gather(sorted(sums)) for name in own})
    zero = torch.zeros((), dtype=torch.float64, device=run.device)
    stacked = torch.stack([table.get(name, zero) for table in (sums, counts) for name in names])
    values = run.ranks.sum(stacked).tolist()
    pairs = zip(names, values[: len(names)], values[len(names) :], strict=True)
    return {name: total / count for name, total, count in pairs if count}
