"""One update of every optimizer: the only place where gradients, clipping and the LR meet the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn, Protocol

import torch
from torch import Tensor

from ttstrain.contract.data import Batch
from ttstrain.contract.task import LearnsFromStatistics, Loss, Mean, Task
from ttstrain.errors import OutOfMemoryError, RecipeError, is_out_of_memory
from ttstrain.optim.ema import Ema
from ttstrain.optim.optimizers import Optimizers
from ttstrain.state import Progress
from ttstrain.tensors.sharded import held
from ttstrain.train.distributed import Ranks, peer_error
from ttstrain.train.guard import Guard, UpdateVerdict
from ttstrain.train.inject import Injector
from ttstrain.train.precision import Precision
from ttstrain.train.sums import GradientSums

if TYPE_CHECKING:
    from ttstrain.train.shards import Shards  # which imports torch's FSDP2

EMA_WEIGHTS = "EMA weights"  # beside the optimizers' names
STATISTICS = "statistics"  # likewise
UPDATE_HINT = (
    "train less of the model (`lora`, `frozen`), take an optimizer with less state (`optim.kind`), or a device "
    "with more memory; where little is missing, $PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True may help"
)


class Stepping(Protocol):
    """The parts of a run that a step uses."""

    device: torch.device
    ranks: Ranks
    sums: GradientSums
    task: Task
    optimizers: Optimizers
    ema: Ema | None
    precision: Precision
    guard: Guard
    progress: Progress
    injector: Injector | None
    shards: Shards | None


@dataclass(frozen=True, slots=True)
class StepReport:
    """The values of one step. Losses are means over the whole global batch."""

    step: int  # updates done after this step
    lrs: Mapping[str, float]  # "<optimizer>/<group>" -> LR in the parameter group during the update
    losses: Mapping[str, float]
    metrics: Mapping[str, float]
    grad_norms: Mapping[str, float]  # optimizer -> norm before clipping
    group_norms: Mapping[str, float]  # "<optimizer>/<group>" -> norm before clipping; only when measured
    update_ratios: Mapping[str, float]  # "<optimizer>/<group>" -> |dw| / |w|; only when measured
    refused: Mapping[str, UpdateVerdict]  # optimizer -> why it did not step
    stepped: Sequence[str]  # optimizers that stepped
    ids: Sequence[str]  # this rank's clips
    num_frames: int  # over all ranks, without padding
    num_padded: int
    num_clips: int


@dataclass(slots=True)
class _Tally:
    """Sums the step's scalars on the device. They are read together with what the guard must know of an update."""

    losses: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, Tensor] = field(default_factory=dict)  # of metrics with a count of their own (`Mean`)
    by_optimizer: dict[str, Tensor] = field(default_factory=dict)
    statistics: dict[str, Tensor] = field(default_factory=dict)
    held_back: dict[tuple[str, str], Tensor] = field(default_factory=dict)  # of one of these tables, and its key
    known: dict[str, tuple[Tensor, float]] = field(default_factory=dict)  # what was read, and its sum over ranks

    def add(self, loss: Loss, share: Tensor | float, *, times: int) -> None:
        """Add a loss; the sums and counts that it brings along count `times`, 1 or 0."""
        value = loss.value.detach().float() * share
        self._add("losses", loss.label, value)
        self._add("by_optimizer", loss.updates, value)
        for key, own in loss.statistics.items():
            self._add("statistics", key, own.detach() * times)
        for key, metric in loss.metrics.items():
            if isinstance(metric, Mean):
                self._add("counts", key, metric.count.float() * times)
                self._add("metrics", key, metric.total.detach().float() * times)
            else:
                self._add("metrics", key, metric.detach().float() * share)

    def hold_back(self) -> None:
        """Hold back each sum until the next micro-batch adds to it: a rank that has only that one knows no other."""
        for kind in ("losses", "metrics", "counts", "by_optimizer", "statistics"):
            table: dict[str, Tensor] = getattr(self, kind)
            self.held_back |= {(kind, key): value for key, value in table.items()}
            table.clear()

    def _add(self, kind: str, key: str, value: Tensor) -> None:
        table: dict[str, Tensor] = getattr(self, kind)
        before = table.get(key, self.held_back.pop((kind, key), None))
        table[key] = value if before is None else before + value

    def unread(self) -> dict[str, Tensor]:
        """Return the losses, metrics and counts that were not read since they last grew."""
        tables = {"loss": self.losses, "metric": self.metrics, "count": self.counts}
        scalars = {f"{kind} {name}": value for kind, table in tables.items() for name, value in table.items()}
        return {
            key: value for key, value in scalars.items() if key not in self.known or self.known[key][0] is not value
        }

    def value(self, key: str) -> float:
        """Return what was read of one of them, summed over ranks."""
        return self.known[key][1]


@dataclass(slots=True)
class _Measured:
    group_norms: dict[str, float] = field(default_factory=dict)
    update_ratios: dict[str, Tensor] = field(default_factory=dict)

    def ratios(self) -> dict[str, float]:
        """Read the update ratios: the one read that only a measured step makes."""
        return dict(zip(self.update_ratios, _read(list(self.update_ratios.values())), strict=True))


class DidNotFit(Exception):  # noqa: N818  handled by the loop: the step is taken again in pieces
    """Memory ran out during a step, on this rank or another; all ranks raise it.

    `micro_batch` is the one that this rank was computing when its memory ran out. `half_done`: an optimizer of this
    rank may have updated its weights already. `update` names what this rank was updating if no loss was left to
    compute: smaller micro-batches would not help then.
    """

    def __init__(self, *, micro_batch: Batch | None, half_done: bool, update: str | None = None) -> None:
        super().__init__("the step did not fit in memory")
        self.micro_batch = micro_batch
        self.half_done = half_done
        self.update = update


@dataclass(slots=True)
class _StepState:
    """The state of a step that is being computed."""

    tally: _Tally = field(default_factory=_Tally)
    refused: dict[str, UpdateVerdict] = field(default_factory=dict)
    begun: list[str] = field(default_factory=list)  # optimizers whose update has begun
    stepped: list[str] = field(default_factory=list)  # optimizers whose update is complete
    grad_norms: dict[str, float] = field(default_factory=dict)
    measured: _Measured | None = None
    at: int = 0  # micro-batch
    updating: str | None = None  # an optimizer's name, or what else is being updated: EMA weights, statistics
    exchanging: bool = False  # data with the other ranks, which wait for this one
    ran_out: bool = False  # of memory, on this rank


def train_step(run: Stepping, micro_batches: Sequence[Batch], *, measure: bool = False) -> StepReport:
    """Compute every loss of the micro-batches, and update each optimizer once.

    Each loss is a mean over its micro-batch's `weight` units; it is scaled by that weight's share of the global batch,
    so that any split into micro-batches and ranks gives the gradient of one large batch. An update that the guard
    refuses leaves its optimizer, and every later one of this step, untouched; optimizers that stepped before it are
    listed in the report. `measure` adds per-group norms and update ratios for logging.

    Raises DidNotFit, with all gradients cleared, when memory runs out, and RecipeError if the batch weighs nothing.
    """
    run.optimizers.set_lr(run.progress.step, factor=run.guard.lr_factor, factors=run.guard.lr_factors)
    lrs = run.optimizers.logged_lrs()
    batches: Sequence[Batch] = [run.task.draw(batch) for batch in micro_batches]
    counts = _count(run, batches)
    _check_weight(run, batches, total=counts.weight)
    state = _StepState(measured=_Measured() if measure else None)
    own_batches, batches = len(batches), _as_many_on_every_rank(run, batches)
    if run.shards is not None:
        run.shards.new_step()
    try:
        for i, batch in enumerate(batches):
            state.at = i
            if counts.single and i and i == len(batches) - 1:
                state.tally.hold_back()
            losses = run.task.losses(batch.to(run.device))
            if run.injector is not None:
                names, step = run.optimizers.names, run.progress.step + 1
                losses = run.injector.in_losses(losses, step=step, clips=batch.ids, last=names[-1])
            while True:
                with run.precision.autocast():  # round the forward alone: no task yields inside a `with` block
                    loss = next(losses, None) if run.shards is None else run.shards.next(losses)
                if loss is None:
                    break
                times = int(i < own_batches)
                share = times * batch.weight / counts.weight
                _descend(run, loss, state, share=share, times=times, last=i == len(batches) - 1)
            if run.shards is not None:
                run.shards.rest()
        _update_statistics_and_ema(run, state)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            if run.shards is not None and isinstance(error, RuntimeError) and (lost := peer_error(error)) is not None:
                raise lost from error
            raise
        _refuse_in_an_exchange(run, state, error)
        state.ran_out = True
    if state.ran_out:  # outside the handler: there the exception still holds the step's tensors in memory
        _tell_of_memory(run)
        _stop_short(run, batches[state.at], state, update=_last_update(run, state))
    _count_step(run, state, counts)
    return _report(run, state, counts, lrs=lrs, ids=[clip for batch in batches[:own_batches] for clip in batch.ids])


def _as_many_on_every_rank(run: Stepping, batches: Sequence[Batch]) -> Sequence[Batch]:
    """Repeat the last batch, to count as nothing, where other ranks of a sharded run have more: they compute alike."""
    if run.shards is None:
        return batches
    numbers = torch.zeros(run.ranks.world_size, dtype=torch.int64)
    numbers[run.ranks.rank] = len(batches)
    return [*batches, *[batches[-1]] * (int(run.ranks.sum(numbers).max()) - len(batches))]


def _descend(run: Stepping, loss: Loss, state: _StepState, *, share: float, times: int, last: bool) -> None:
    """Add the gradient of one loss of one micro-batch; after the `last`, update the optimizer that it trains."""
    state.tally.add(loss, share, times=times)
    if not (parameters := run.optimizers.params(loss.updates)):
        return  # every group of this optimizer is frozen for now
    final = last and loss.steps
    if final and not run.ranks.all_fit(True):  # before the backward pass begins sums that all must take part in
        _stop_short(run, None, state)
    if run.shards is not None:
        run.precision.backward(loss.value * share, into=run.shards.leaves(parameters))
    else:
        with run.sums.beginning(run.ranks, loss.updates, parameters) if final else nullcontext():
            run.precision.backward(loss.value * share, into=parameters)
    if final:
        _update(run, loss.updates, state)


def _update_statistics_and_ema(run: Stepping, state: _StepState) -> None:
    """Update statistics and EMA after the last optimizer, unless an update was refused."""
    if state.tally.statistics and not state.refused:
        _learn(run, state)
    if run.ema is not None and not state.refused:
        state.updating = EMA_WEIGHTS
        run.ema.update(run.progress.step + 1)
    if not run.ranks.all_fit(True):
        _stop_short(run, None, state)


def _refuse_in_an_exchange(run: Stepping, state: _StepState, error: Exception) -> None:
    """Raise OutOfMemoryError where memory ran out while the ranks were exchanging something."""
    if run.shards is not None:  # the others wait in a forward or a backward
        raise OutOfMemoryError(
            f"memory ran out in step {run.progress.step + 1}, which all processes of a sharded run compute together",
            hint="lower `data.batch_frames`, leave long clips out (`data.max_s`), or raise `train.parallel.shard`",
        ) from error
    if state.exchanging and not run.ranks.alone:  # the others wait in the sum of gradients and cannot be told
        raise OutOfMemoryError(
            f"memory ran out in step {run.progress.step + 1} while gradients were summed over the processes",
            hint=UPDATE_HINT,
        ) from error


def _learn(run: Stepping, state: _StepState) -> None:
    """Sum the losses' statistics over ranks, and pass them to the task's `learn`."""
    if not run.ranks.all_fit(True):
        _stop_short(run, None, state)
    state.updating, state.exchanging = STATISTICS, True
    for name, own in state.tally.statistics.items():
        state.tally.statistics[name] = run.ranks.sum(own.contiguous().clone())
    state.exchanging = False
    if not isinstance(run.task, LearnsFromStatistics):
        raise TypeError(f"{type(run.task).__name__} yields statistics and has no `learn`")
    run.task.learn(state.tally.statistics)


def _tell_of_memory(run: Stepping) -> None:
    """Tell the other ranks, where they next ask, that this one's memory ran out."""
    _drop_gradients(run)
    if run.sums.under_way:
        run.sums.finish(run.ranks, fits=False)
    else:
        run.ranks.all_fit(False)


def _stop_short(run: Stepping, micro_batch: Batch | None, state: _StepState, *, update: str | None = None) -> NoReturn:
    _drop_gradients(run)
    raise DidNotFit(micro_batch=micro_batch, half_done=bool(state.begun), update=update)


def _drop_gradients(run: Stepping) -> None:
    for name in run.optimizers.names:
        run.optimizers.zero_grad(name)


def _last_update(run: Stepping, state: _StepState) -> str | None:
    """Return what is being updated if every other optimizer is done; None if losses are still to be computed."""
    waiting = [name for name in run.optimizers.names if name not in state.grad_norms and run.optimizers.params(name)]
    return state.updating if set(waiting) <= {state.updating} else None


@dataclass(frozen=True, slots=True)
class _Counts:
    """Sizes of the global batch."""

    weight: float
    frames: float
    padded: float
    clips: float
    micro_batches: float
    single: float  # ranks that have one micro-batch only


def _count(run: Stepping, batches: Sequence[Batch]) -> _Counts:
    own = [
        float(sum(batch.weight for batch in batches)),
        float(sum(batch.num_frames for batch in batches)),
        float(sum(batch.num_padded for batch in batches)),
        float(sum(len(batch.ids) for batch in batches)),
        float(len(batches)),
        float(len(batches) == 1),
    ]
    if not run.ranks.alone:
        own = run.ranks.sum(torch.tensor(own, dtype=torch.float64)).tolist()  # on the host: no wait
    return _Counts(*own)


def _check_weight(run: Stepping, batches: Sequence[Batch], *, total: float) -> None:
    """Raise RecipeError, on every rank, if the global batch has weight 0: its mean loss is undefined."""
    if not total > 0:
        clips = [f"`{clip}`" for batch in batches for clip in batch.ids]
        shown = ", ".join(clips[:3]) + (f" and {len(clips) - 3} more" if len(clips) > 3 else "")
        raise RecipeError(
            f"step {run.progress.step + 1} has nothing to learn: its batch weighs {total:g} ({shown})",
            hint="look at what `model:` hides or masks of such clips, or take more of them in a step "
            "(`data.batch_frames`, `train.accumulate`)",
        )


def _update(run: Stepping, name: str, state: _StepState) -> None:
    """Complete the sums of gradients over ranks, unscale, clip, ask the guard, step and zero one optimizer.

    What the guard must know is copied to the host together with the losses and metrics so far: the only
    synchronisation of an update. If the loss of another optimizer is already known and not finite, this one does not
    step either.
    """
    state.updating, state.exchanging = name, True
    parameters = run.optimizers.params(name)
    if run.shards is None:
        if not run.sums.finish(run.ranks):
            _stop_short(run, None, state)
    else:
        run.shards.finish_gradients(parameters)
    run.precision.unscale([held(parameter.grad) for parameter in parameters if parameter.grad is not None])
    run.optimizers.mask()
    norms = run.optimizers.norms(name)
    measured = {} if state.measured is None else norms.groups
    norm = run.optimizers.clip(name, norms=norms)
    others = [
        loss for other, loss in state.tally.by_optimizer.items() if other != name and run.optimizers.params(other)
    ]
    losses = [state.tally.by_optimizer[name], *others]
    read = _read_tally(run, state.tally, also=losses, norms=[norm, *measured.values()])
    loss, *other_losses = read.losses
    norm_value, *group_norms = read.norms
    if state.measured is not None:
        state.measured.group_norms.update(zip([f"{name}/{group}" for group in measured], group_norms, strict=True))
    state.exchanging = False
    verdict = run.guard.judge(name, loss=loss, grad_norm=norm_value, overflow_is_scale=not run.precision.exhausted)
    state.grad_norms[name] = norm_value
    if not verdict.good:
        state.refused[name] = verdict
    elif not state.refused and all(math.isfinite(other) for other in other_losses):
        state.begun.append(name)
        _step(run, name, state.measured)
        state.stepped.append(name)
        run.guard.accept(name, loss)
    run.optimizers.zero_grad(name)
    state.updating = None


def _step(run: Stepping, name: str, measured: _Measured | None) -> None:
    if measured is None:
        run.optimizers.step(name)
        return
    ratios = run.optimizers.measured_step(name)
    measured.update_ratios.update({f"{name}/{group}": ratio for group, ratio in ratios.items()})


def _count_step(run: Stepping, state: _StepState, counts: _Counts) -> None:
    """Adapt the loss scale, and count the step unless an update was refused."""
    run.precision.adapt_scale(overflowed=any(verdict.judgement == "overflow" for verdict in state.refused.values()))
    if not state.refused:
        run.progress.step += 1
        run.guard.note_good_step()
    run.progress.micro_batches += int(counts.micro_batches)
    run.progress.clips += int(counts.clips)
    run.progress.frames += int(counts.frames)


def _report(
    run: Stepping, state: _StepState, counts: _Counts, *, lrs: Mapping[str, float], ids: Sequence[str]
) -> StepReport:
    losses, metrics = _global_means(run, state.tally)
    return StepReport(
        step=run.progress.step,
        lrs=lrs,
        losses=losses,
        metrics=metrics,
        grad_norms=state.grad_norms,
        group_norms={} if state.measured is None else state.measured.group_norms,
        update_ratios={} if state.measured is None else state.measured.ratios(),
        refused=state.refused,
        stepped=state.stepped,
        ids=ids,
        num_frames=int(counts.frames),
        num_padded=int(counts.padded),
        num_clips=int(counts.clips),
    )


def _global_means(run: Stepping, tally: _Tally) -> tuple[dict[str, float], dict[str, float]]:
    """Return the global losses and metrics; reads nothing if the step's last loss updated an optimizer."""
    if tally.unread():
        _read_tally(run, tally)
    losses = {name: tally.value(f"loss {name}") for name in tally.losses}
    sums = {name: tally.value(f"metric {name}") for name in tally.metrics}
    counts = {name: tally.value(f"count {name}") for name in tally.counts}
    met = {name: total for name, total in sums.items() if counts.get(name) != 0}
    return losses, {name: total / counts.get(name, 1.0) for name, total in met.items()}


@dataclass(frozen=True, slots=True)
class _Figures:
    """What was read beside a tally."""

    losses: Sequence[float]
    norms: Sequence[float]


def _read_tally(run: Stepping, tally: _Tally, *, also: Sequence[Tensor] = (), norms: Sequence[Tensor] = ()) -> _Figures:
    """Read the tally's unread scalars and `also` these losses, summed over ranks, and norms, which ranks share."""
    unread = tally.unread()
    scalars = [*also, *(value.to(run.device, non_blocking=True) for value in unread.values())]
    summed = run.ranks.sum(torch.stack(scalars))
    values = _read([*summed.unbind(), *(norm.to(summed) for norm in norms)])
    first, last = len(also), len(also) + len(unread)
    tally.known |= {key: (own, value) for (key, own), value in zip(unread.items(), values[first:last], strict=True)}
    return _Figures(losses=values[:first], norms=values[last:])


def _read(scalars: Sequence[Tensor]) -> list[float]:
    """Read many scalars in one transfer: the host waits for the device here, and nowhere else in a step."""
    if not scalars:
        return []
    read: list[float] = torch.stack([value.detach().float() for value in scalars]).tolist()
    return read
