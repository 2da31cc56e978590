"""Evaluation losses on held-out clips, of the raw and of the EMA weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial

import torch

from ttstrain.contract.data import Batch
from ttstrain.contract.task import Mean
from ttstrain.train.evaluation_loop import Pieces, evaluate_batches, mean_losses, never, weighted
from ttstrain.train.run import Run


def evaluate(
    run: Run,
    batches: Sequence[Pieces],
    retained: Sequence[Pieces] = (),
    *,
    stage: Sequence[Pieces] | None = None,
    hurried: Callable[[], bool] = never,
) -> dict[str, float]:
    """Return `eval/loss/<name>` of the raw weights and `eval/ema_loss/<name>` of the EMA weights.

    For `retained`, held-out replay batches, `eval/retention/<name>` and `eval/ema_retention/<name>`; for `stage`, those
    of the running stage, `eval/stage/<name>`. Ranks share the batches. Training's random states are restored. Batches
    that do not fit in memory are split, also for later evaluations. Raises, on every rank, OutOfMemoryError if a single
    clip does not fit, and Hurried if `hurried` is true between two batches.
    """
    with run.optimizers.evaluating():  # outside the swap: schedule-free optimizers move the weights on entering
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

    def losses(batch: Batch, generator: torch.Generator) -> dict[str, Mean]:
        return weighted(run.task.evaluate(batch, generator), batch.weight)

    with run.rng.preserved(), nullcontext() if run.shards is None else run.shards.whole():
        parts = evaluate_batches(
            run.task,
            batches,
            losses,
            device=run.device,
            autocast=run.precision.autocast,
            ranks=run.ranks,
            divide=partial(_divide, run),
            hurried=hurried,
            what=f"the evaluation after step {run.progress.step}",
        )
    return mean_losses(parts, device=run.device, ranks=run.ranks)


def _divide(run: Run, pieces: Pieces, at: int) -> bool:
    """Replace a batch by two halves; return False for a single clip."""
    if run.device.type == "cuda":
        torch.cuda.empty_cache()
    half = run.loader.half_of(pieces[at])
    if half is None:
        return False
    pieces[at : at + 1] = run.loader.divided(pieces[at], limit=half)
    if run.ranks.main:
        run.trackers.note("a held-out micro-batch did not fit in memory: evaluated in pieces from here on")
    return True
