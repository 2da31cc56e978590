"""One update of every optimizer: the only place where gradients, clipping and the LR meet the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ttstrain.engine.distributed import Ranks
from ttstrain.engine.guard import Guard, Verdict
from ttstrain.engine.precision import Precision
from ttstrain.optim.ema import Ema
from ttstrain.optim.optimizers import Optimizers
from ttstrain.state import Progress
from ttstrain.task import Batch, Loss, Mean, Task


class Stepping(Protocol):
    """The parts of a run that a step touches."""

    device: torch.device
    ranks: Ranks
    task: Task
    optimizers: Optimizers
    ema: Ema | None
    precision: Precision
    guard: Guard
    progress: Progress


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step did. Losses are means over the whole global batch."""

    step: int  # updates done after this step
    lrs: Mapping[str, float]  # "<optimizer>/<group>" -> LR in the parameter group during the update
    losses: Mapping[str, float]
    metrics: Mapping[str, float]
    grad_norms: Mapping[str, float]  # optimizer -> norm before clipping
    group_norms: Mapping[str, float]  # "<optimizer>/<group>" -> norm before clipping; only when measured
    update_ratios: Mapping[str, float]  # "<optimizer>/<group>" -> |dw| / |w|; only when measured
    refused: Mapping[str, Verdict]  # optimizer -> why it did not step
    stepped: Sequence[str]  # optimizers that did
    ids: Sequence[str]  # this rank's clips
    num_frames: int  # over all ranks, without padding
    num_padded: int
    num_clips: int


@dataclass(slots=True)
class _Tally:
    """Adds up the step's scalars on the device; read in one transfer at the end."""

    losses: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, Tensor] = field(default_factory=dict)  # of the metrics that are means over units of their own
    by_optimizer: dict[str, Tensor] = field(default_factory=dict)

    def add(self, loss: Loss, share: Tensor | float) -> None:
        value = loss.value.detach().float() * share
        for table, key in ((self.losses, loss.label), (self.by_optimizer, loss.updates)):
            table[key] = table[key] + value if key in table else value
        for key, metric in loss.metrics.items():
            part = metric.total.detach().float() if isinstance(metric, Mean) else metric.detach().float() * share
            self.metrics[key] = self.metrics[key] + part if key in self.metrics else part
            if isinstance(metric, Mean):
                self.counts[key] = self.counts.get(key, 0.0) + metric.count.float()


def train_step(run: Stepping, micro_batches: Sequence[Batch], *, measure: bool = False) -> StepReport:
    """Compute every loss of the micro-batches, and update each optimizer once.

    Each loss is a mean over its micro-batch's `weight` units; it is scaled by that weight's share of the global batch,
    so that any split into micro-batches and ranks gives the gradient of one large batch. An update that the guard
    refuses leaves its optimizer, and every later one of this step, untouched; one that stepped before it has stepped,
    and the report says so. `measure` adds per-group figures that logging wants and the update does not need.
    """
    run.optimizers.set_lr(run.progress.step, factor=run.guard.lr_factor)
    lrs = run.optimizers.logged_lrs()
    batches = [run.task.draw(batch) for batch in micro_batches]
    counts = _count(run, batches)
    total = counts[0]
    tally = _Tally()
    refused: dict[str, Verdict] = {}
    stepped: list[str] = []
    grad_norms: dict[str, float] = {}
    measured = _Measured()

    for i, batch in enumerate(batches):
        last = i == len(batches) - 1
        share = batch.weight / total
        for loss in run.precision.forward(run.task.losses(batch.to(run.device))):
            tally.add(loss, share)
            if not (parameters := run.optimizers.params(loss.updates)):
                continue  # every group of this optimizer is frozen for now
            run.precision.backward(loss.value * share, into=parameters)
            if last and loss.steps:
                verdict = _update(run, loss.updates, tally, measured=measured if measure else None, veto=bool(refused))
                grad_norms[loss.updates] = verdict.grad_norm
                if not verdict.good:
                    refused[loss.updates] = verdict
                elif not refused:
                    stepped.append(loss.updates)

    run.precision.settle(overflowed=any(verdict.judgement == "overflow" for verdict in refused.values()))
    if not refused:
        run.progress.step += 1
        run.guard.settle_good_step()
        if run.ema is not None:
            run.ema.update(run.progress.step)
    run.progress.micro_batches += len(batches) * run.ranks.world_size
    run.progress.clips += int(counts[3])
    run.progress.frames += int(counts[1])
    losses, metrics = _read(run, tally)
    return StepReport(
        step=run.progress.step,
        lrs=lrs,
        losses=losses,
        metrics=metrics,
        grad_norms=grad_norms,
        group_norms=measured.norms(),
        update_ratios=measured.ratios(),
        refused=refused,
        stepped=stepped,
        ids=[clip for batch in batches for clip in batch.ids],
        num_frames=int(counts[1]),
        num_padded=int(counts[2]),
        num_clips=int(counts[3]),
    )


def _count(run: Stepping, batches: Sequence[Batch]) -> list[float]:
    """Return weight, frames, padded frames and clips of the global batch."""
    own = [
        float(sum(batch.weight for batch in batches)),
        float(sum(batch.num_frames for batch in batches)),
        float(sum(batch.num_padded for batch in batches)),
        float(sum(len(batch.ids) for batch in batches)),
    ]
    if run.ranks.alone:
        return own
    counts: list[float] = run.ranks.sum(torch.tensor(own, dtype=torch.float64)).tolist()  # on the host: no wait
    return counts


@dataclass(slots=True)
class _Measured:
    group_norms: dict[str, Tensor] = field(default_factory=dict)
    update_ratios: dict[str, Tensor] = field(default_factory=dict)

    def norms(self) -> dict[str, float]:
        return _to_host(self.group_norms)

    def ratios(self) -> dict[str, float]:
        return _to_host(self.update_ratios)


def _update(run: Stepping, name: str, tally: _Tally, *, measured: _Measured | None, veto: bool) -> Verdict:
    """Sum over ranks, unscale, clip, judge, step and zero one optimizer.

    Loss and gradient norm cross to the host together: the one wait that a decision before the step costs.
    """
    parameters = run.optimizers.params(name)
    run.ranks.sum_gradients(parameters)
    run.precision.unscale([parameter.grad for parameter in parameters if parameter.grad is not None])
    run.optimizers.mask()
    norms = run.optimizers.norms(name)
    if measured is not None:
        measured.group_norms.update({f"{name}/{group}": norm for group, norm in norms.groups.items()})
    norm = run.optimizers.clip(name, norms=norms)
    loss = tally.by_optimizer[name] if run.ranks.alone else run.ranks.sum(tally.by_optimizer[name].clone())
    loss_value, norm_value = torch.stack([loss, norm.to(loss)]).tolist()
    verdict = run.guard.judge(
        name, loss=loss_value, grad_norm=norm_value, overflow_is_scale=not run.precision.exhausted
    )
    if verdict.good and not veto:
        if measured is not None:
            with run.optimizers.measure_update(name) as ratios:
                run.optimizers.step(name)
            measured.update_ratios.update({f"{name}/{group}": ratio for group, ratio in ratios.items()})
        else:
            run.optimizers.step(name)
        run.guard.accept(name, loss_value)
    run.optimizers.zero_grad(name)
    return verdict


def _read(run: Stepping, tally: _Tally) -> tuple[dict[str, float], dict[str, float]]:
    """Return the global losses and metrics, in one transfer."""
    others = [*tally.metrics.values(), *tally.counts.values()]
    scalars = [*tally.losses.values(), *(value.to(run.device) for value in others)]
    values = iter(run.ranks.sum(torch.stack(scalars)).tolist())
    losses = {name: next(values) for name in tally.losses}
    sums = {name: next(values) for name in tally.metrics}
    counts = {name: next(values) for name in tally.counts}
    met = {name: total for name, total in sums.items() if counts.get(name) != 0}
    return losses, {name: total / counts.get(name, 1.0) for name, total in met.items()}


def _to_host(scalars: Mapping[str, Tensor]) -> dict[str, float]:
    """Read many scalars in one transfer."""
    if not scalars:
        return {}
    values = torch.stack([value.detach().float() for value in scalars.values()]).tolist()
    return dict(zip(scalars, values, strict=True))
