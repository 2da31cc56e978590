"""Rehearses a recipe's training step at its real size on pretended CUDA, through the engine's own step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

from ttstrain import registry
from ttstrain.contract.data import Batch, Clip
from ttstrain.contract.task import Task
from ttstrain.data.ahead import pinned
from ttstrain.optim.ema import Ema
from ttstrain.optim.optimizers import Optimizers
from ttstrain.plan.plan import Plan
from ttstrain.rehearsal.device import PretendedCuda
from ttstrain.rehearsal.pretence import pretended_cuda
from ttstrain.state import Progress
from ttstrain.train.build import make_ema, make_optimizers, make_task
from ttstrain.train.device import choose_device
from ttstrain.train.distributed import Ranks
from ttstrain.train.guard import Guard
from ttstrain.train.inject import Injector
from ttstrain.train.precision import Precision
from ttstrain.train.step import StepReport, train_step
from ttstrain.train.sums import GradientSums

if TYPE_CHECKING:
    from ttstrain.train.shards import Shards

Format = Literal["fp32", "bf16", "fp16"]
GRADIENTS_ADD_UP = 2  # micro-batches of a step that are rehearsed; what further ones take is the same


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a step takes on a GPU, beside the CUDA context, workspaces and fragmentation."""

    precision: Format
    clips: int  # of the micro-batch
    units: int  # of length, padding included
    weights: int  # bytes of all weights and buffers
    state: int  # bytes of weights, optimizer state and EMA weights: what stays from step to step
    peak: int  # bytes
    waits: Sequence[str]  # "<what> in <module>.<function>", of a measured step
    attention: dict[str, int]  # kernel -> calls
    held: dict[str, int] = field(default_factory=dict)  # place -> bytes at the peak, where it was traced


@dataclass(slots=True)
class _Run:
    """The parts of a run that a step uses."""

    device: torch.device
    ranks: Ranks
    task: Task
    optimizers: Optimizers
    ema: Ema | None
    precision: Precision
    guard: Guard
    progress: Progress
    injector: Injector | None = None
    shards: Shards | None = None
    sums: GradientSums = field(default_factory=GradientSums)


def rehearse(
    plan: Plan, micro_batches: Sequence[Sequence[Clip]], *, precision: Format, traced: bool = False
) -> list[Rehearsal]:
    """Take a step over each of these micro-batches of clips, and return what each took."""
    with rehearsing(plan, traced=traced) as take:
        return [take(clips, precision) for clips in micro_batches]


@contextmanager
def rehearsing(plan: Plan, *, traced: bool = False) -> Iterator[Callable[[Sequence[Clip], Format], Rehearsal]]:
    """Build a plan's run once; inside, take a step over micro-batches of some clips each, in a number format.

    Only the clips' texts and lengths are used. It needs a process that made no backward pass without it before.
    Raises RecipeError where the family or this build of torch cannot do it.
    """
    with pretended_cuda(traced=traced) as gpu:
        device = choose_device("cuda", tf32=plan.recipe.train.tf32)
        run = _build(plan, gpu, device=device)
        weights = gpu.live - _ema_bytes(run)
        _make_state(run)

        def take(clips: Sequence[Clip], precision: Format) -> Rehearsal:
            run.precision = Precision(precision, device)
            return _take(run, plan, gpu, clips, weights=weights)

        yield take


def precision_on_gpu(plan: Plan) -> Format:
    """Return the format that the recipe takes on a GPU that has bf16."""
    wanted = plan.recipe.train.precision
    return "bf16" if wanted == "auto" else wanted


def _build(plan: Plan, gpu: PretendedCuda, *, device: torch.device) -> _Run:
    with gpu.fake:  # a model of billions of weights takes no memory here
        task = make_task(plan)
    task.to(device)
    return _Run(
        device=device,
        ranks=Ranks(),
        task=task,
        optimizers=make_optimizers(plan, task),
        ema=make_ema(plan, task),
        precision=Precision("fp32", device),
        guard=Guard(plan.recipe.guard),
        progress=Progress(),
    )


def _ema_bytes(run: _Run) -> int:
    if run.ema is None:
        return 0
    own = {tensor.untyped_storage()._cdata for tensor in run.task.state_dict().values()}
    averages = {id(tensor): tensor for tensor in run.ema.state_dict()["weights"].values()}
    return sum(tensor.nbytes for tensor in averages.values() if tensor.untyped_storage()._cdata not in own)


def _make_state(run: _Run) -> None:
    """Make the optimizers' state, as the first step of a run does at its end."""
    for name in run.optimizers.names:
        run.optimizers.set_lr(0, factor=1.0)
        for parameter in run.optimizers.params(name):
            parameter.grad = torch.zeros_like(parameter)
        run.optimizers.step(name)
        run.optimizers.zero_grad(name)


def _take(run: _Run, plan: Plan, gpu: PretendedCuda, clips: Sequence[Clip], *, weights: int) -> Rehearsal:
    batches: list[Any] = [pinned(_blank(plan, clips)) for _ in range(min(plan.accumulate, GRADIENTS_ADD_UP))]
    state = gpu.live
    gpu.reset_peak()
    gpu.waits.clear()
    gpu.attention.clear()
    report: StepReport = train_step(run, batches, measure=True)
    assert report.stepped
    return Rehearsal(
        precision=run.precision.kind,
        clips=len(clips),
        units=batches[0].num_padded,
        weights=weights,
        state=state,
        peak=gpu.peak,
        waits=list(gpu.waits),
        attention=dict(gpu.attention),
        held=dict(gpu.held_at_peak),
    )


def _blank(plan: Plan, clips: Sequence[Clip]) -> Batch:
    spec = registry.find_task(plan.recipe.task)
    return spec.make_blank_batch(plan.recipe.model, clips)
