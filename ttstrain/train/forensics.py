"""What a refused batch is looked at for: whether it fails again, whether it fails in fp32, and where, and which clips.

The batch is computed once more with the random numbers of its step, first in the run's number format and then in fp32,
without any update. Nothing of that is left: random states, buffers and gradients are put back. Every process looks at
its own micro-batches, and all of them decide alike from what all have found.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ttstrain.contract.data import Batch
from ttstrain.contract.task import Loss
from ttstrain.errors import first_line
from ttstrain.modules.fp8 import not_in_fp8
from ttstrain.train.compiled import as_written
from ttstrain.train.guard import Finding, UpdateVerdict
from ttstrain.train.precision import NumberFormat, Precision
from ttstrain.train.run import Run

MOST_CLIPS = 64  # of a batch that are looked at alone
HALF = 0.5  # of a spike: a loss above that has come back


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a step was made of."""

    batches: Sequence[Batch]  # of this process, in the pieces in which they were computed
    generators: Mapping[str, Any]  # random states before the step


@dataclass(frozen=True, slots=True)
class Refused:
    """An update that the guard refused, and its step."""

    optimizer: str
    verdict: UpdateVerdict
    attempt: Attempt

    def fails(self, loss: float, *, finite: bool) -> bool:
        """Tell whether a loss, with a gradient that is `finite` or not, is refused for the same reason."""
        if self.verdict.judgement == "spike":
            return not loss <= HALF * self.verdict.loss
        return not math.isfinite(loss) or not finite


@dataclass(frozen=True, slots=True)
class _Looked:
    """What one process found when it computed its part of the batch again."""

    weighted: float  # loss times weight
    weight: float
    finite: bool  # the gradient
    module: str | None  # the first with a value that is not finite, in its output or else in the gradient of that


@dataclass(frozen=True, slots=True)
class _Joined:
    """What all processes found together."""

    loss: float
    finite: bool
    module: str | None


def examine(run: Run, refused: Refused) -> Finding:
    """Find out why an update was refused. The weights must still be those of the refused step.

    An error on the way ends no run: the cause is then `unknown`, and the finding says the error.
    """
    with _nothing_left(run):
        again = _look(run, refused, run.precision.kind)
        if isinstance(again, str):
            return Finding("unknown", why=f"it could not be computed again: {again}")
        if not refused.fails(again.loss, finite=again.finite):
            why = f"computed again with the same random numbers, its loss is {again.loss:.4g}"
            return Finding("not repeatable", why=why)
        in_fp32 = again if run.precision.kind == "fp32" else _look(run, refused, "fp32")
        if isinstance(in_fp32, str):
            return _finding(run, "unknown", again, why=f"it fails again, and could not be computed in fp32: {in_fp32}")
        if not refused.fails(in_fp32.loss, finite=in_fp32.finite):
            why = f"it fails again in {run.precision.kind}; in fp32 its loss is {in_fp32.loss:.4g}"
            return _finding(run, "numeric", again, why=why)
        return _blame(run, refused, in_fp32)


def _blame(run: Run, refused: Refused, in_fp32: _Joined) -> Finding:
    """Tell bad clips from bad weights: compute each clip alone, in fp32."""
    own = [_clip_fails(run, refused, clip) for batch in refused.attempt.batches for clip in _clips(run, batch)]
    tried = [entry for found in run.ranks.gather(own) for entry in found]
    failed = [clip for clip, fails in tried if fails]
    if len(failed) == len(tried) > 1:
        return _finding(run, "weights", in_fp32, why="in fp32 it fails too, and each of its clips alone does")
    alone = f"of its {len(tried)} clips, each alone, {_listed(failed) or 'none'} fails"
    return _finding(run, "data", in_fp32, clips=failed, why=f"in fp32 it fails too; {alone}")


def _clips(run: Run, batch: Batch) -> list[Batch]:
    """Divide a micro-batch into single clips."""
    return run.loader.divided(batch, limit=1)[:MOST_CLIPS]


def _clip_fails(run: Run, refused: Refused, clip: Batch) -> tuple[str, bool]:
    found = _look_alone(run, refused, "fp32", [clip])
    fails = not isinstance(found, str) and refused.fails(found.weighted / found.weight, finite=found.finite)
    return clip.ids[0], fails


def _listed(clips: Sequence[str]) -> str:
    more = f" and {len(clips) - 3} more" if len(clips) > 3 else ""
    return ", ".join(clips[:3]) + more


def _finding(
    run: Run,
    cause: Literal["data", "weights", "numeric", "unknown"],
    found: _Joined,
    *,
    why: str,
    clips: Sequence[str] = (),
) -> Finding:
    groups = () if found.module is None else groups_of(run, found.module)
    return Finding(cause, why=why, module=found.module, groups=groups, clips=tuple(clips))


def groups_of(run: Run, module: str) -> tuple[str, ...]:
    """Name the parameter groups of a module of the task; where it has no parameters, of the nearest one around it."""
    while True:
        own = {id(parameter) for parameter in run.task.get_submodule(module).parameters()}
        found = {group.key for group in run.optimizers.table.groups if any(id(one) in own for one in group.parameters)}
        if found or not module:
            return tuple(sorted(found))
        module = module.rpartition(".")[0]


# ---------------------------------------------------------------- computing it again


def _look(run: Run, refused: Refused, kind: NumberFormat) -> _Joined | str:
    """Compute the batch again on every process; returns the first error where one had an error."""
    found = run.ranks.gather(_look_alone(run, refused, kind, refused.attempt.batches))
    whole: list[_Looked] = []
    for one in found:
        if isinstance(one, str):
            return one
        whole.append(one)
    return _Joined(
        loss=sum(one.weighted for one in whole) / sum(one.weight for one in whole),
        finite=all(one.finite for one in whole),
        module=next((one.module for one in whole if one.module is not None), None),
    )


def _look_alone(run: Run, refused: Refused, kind: NumberFormat, batches: Sequence[Batch]) -> _Looked | str:
    try:
        return _compute(run, refused, kind, batches)
    except Exception as error:  # told in the incident: what is only looked at must not end a run
        return f"{type(error).__name__}: {first_line(error)}"
    finally:
        for name in run.optimizers.names:
            run.optimizers.zero_grad(name)


def _compute(run: Run, refused: Refused, kind: NumberFormat, batches: Sequence[Batch]) -> _Looked:
    run.rng.load_state_dict(refused.attempt.generators)
    drawn = [run.task.draw(batch) for batch in batches]
    weight, weighted = sum(batch.weight for batch in drawn), 0.0
    parameters = run.optimizers.params(refused.optimizer)
    in_numbers = not_in_fp8(run.task) if kind == "fp32" else nullcontext()
    with in_numbers, as_written(run.task), _watching(run.task) as watch:  # compiled blocks call no hooks
        for batch in drawn:
            for loss in _losses(run, batch, Precision(kind, run.device)):
                if loss.updates != refused.optimizer:
                    continue
                weighted += float(loss.value.detach()) * batch.weight
                if math.isfinite(weighted):  # otherwise the gradient is not finite anywhere, which tells nothing
                    torch.autograd.backward(loss.value, inputs=list(parameters))
    finite = all(bool(torch.isfinite(own.grad).all()) for own in parameters if own.grad is not None)
    return _Looked(weighted, weight, finite, watch.in_output or (None if finite else watch.in_gradient))


def _losses(run: Run, batch: Batch, precision: Precision) -> Iterator[Loss]:
    """Yield the losses of one micro-batch as a step does, with the clips that a fault has made bad."""
    losses = run.task.losses(batch.to(run.device))
    if run.injector is not None:
        losses = run.injector.in_losses_again(losses, clips=batch.ids, last=run.optimizers.names[-1])
    while True:
        with precision.autocast():
            loss = next(losses, None)
        if loss is None:
            return
        yield loss


@contextmanager
def _nothing_left(run: Run) -> Iterator[None]:
    """Put random states and buffers back at the end."""
    generators = run.rng.state_dict()
    changing = (buffer for buffer in run.task.buffers() if buffer.dtype != torch.uint8)  # which hold frozen weights
    buffers = [(buffer, buffer.detach().clone()) for buffer in changing]
    try:
        yield
    finally:
        run.rng.load_state_dict(generators)
        with torch.no_grad():
            for buffer, held in buffers:
                buffer.copy_(held)


# ---------------------------------------------------------------- where


@dataclass(slots=True)
class _Watch:
    """The first module, in the order of computing, with a value that is not finite."""

    in_output: str | None = None
    in_gradient: str | None = None  # of its output

    def see_output(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        """Look at a module's output now, and at its gradient once that is computed."""
        for tensor in _tensors(output):
            if self.in_output is None and not _is_finite(tensor):
                self.in_output = name
            if tensor.requires_grad:
                tensor.register_hook(partial(self.see_gradient, name))  # type: ignore[no-untyped-call]

    def see_gradient(self, name: str, gradient: Tensor) -> None:
        """Look at the gradient of a module's output."""
        if self.in_gradient is None and not _is_finite(gradient):
            self.in_gradient = name


@contextmanager
def _watching(task: nn.Module) -> Iterator[_Watch]:
    """Watch the outputs of every module of the task, and their gradients; inner modules come before outer ones."""
    watch = _Watch()
    handles = [
        module.register_forward_hook(partial(watch.see_output, name)) for name, module in task.named_modules() if name
    ]
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors(value)


def _is_finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor.detach()).all())
