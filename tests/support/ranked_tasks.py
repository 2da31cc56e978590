"""A step of every family's own task, by one process or by several on the same global batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ranked import joined
from small_runs import flat
from subjects import Subject, known, make_subject
from torch import Tensor
from torch.overrides import TorchFunctionMode
from toys import make_run

from ttstrain.contract.task import Task
from ttstrain.tensors.sharded import gathered
from ttstrain.train.checksum import checksums
from ttstrain.train.distributed import Ranks
from ttstrain.train.step import StepReport, train_step

# With a usual `eps`, AdamW's first steps are the signs of gradients, also of those that are only rounding.
SMALL_STEPS = ("optim.kind=adamw", "optim.lr=1e-4", "optim.eps=1e-3")
EMA_DECAY = 0.9
RATES = ("p", "_dropout", "dropout", "p_dropout", "attention_dropout")  # what modules call theirs
PARTS = ("task", "ema", "optimizers")
KINDS = ("weights", "codebook", "optimizer state")  # a codebook is learned as the mean of features, not by gradients


@dataclass(frozen=True)
class Stepped:
    """What some steps reported, and what is held after them; tensors are neither kept nor sent, as there are many."""

    apart: dict[str, float]  # by kind, from the process that trained alone; empty of that process itself
    checksums: list[int]  # of each tensor's bits
    losses: list[dict[str, float]]
    grad_norms: list[dict[str, float]]


class SameForEachClip(TorchFunctionMode):
    """Draws the same noise for every clip of a batch, so that it matters to none which others lie beside it."""

    def __init__(self) -> None:
        super().__init__()
        self._drawn = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.rand:
            return torch.full(args[0] if isinstance(args[0], tuple | list) else args, self._uniform(), **kwargs)
        if func is Tensor.uniform_:
            low, high = args[1:]
            return args[0].fill_(low + (high - low) * self._uniform())
        if func is torch.randn_like:
            own = torch.randn(args[0].shape[1:], generator=self._generator())
            return own.to(args[0]).expand_as(args[0]).clone()
        return func(*args, **kwargs)

    def _generator(self) -> torch.Generator:
        self._drawn += 1
        return torch.Generator().manual_seed(self._drawn)

    def _uniform(self) -> float:
        return float(torch.empty(()).normal_(generator=self._generator()).erf().abs())


def step_on_shares(smoke: str, overrides: Sequence[str], steps: int, shard: int, alone: Path) -> Stepped:
    """Take steps of a smoke recipe's task, each rank on its share of the clips; compare with a file of `step_alone`."""
    with joined() as ranks:
        held, reports = _step(smoke, overrides, steps, ranks, shard=shard)
        return _told(_apart(held, torch.load(alone, mmap=True, weights_only=True)), held, reports)


def step_alone(smoke: str, overrides: Sequence[str], steps: int, *, into: Path) -> Stepped:
    """Take the same steps in one process, on all clips in one micro-batch, and write all tensors into a file."""
    held, reports = _step(smoke, overrides, steps, Ranks())
    torch.save(held, into)
    return _told({}, held, reports)


def _step(
    smoke: str, overrides: Sequence[str], steps: int, ranks: Ranks, *, shard: int = 1
) -> tuple[dict[str, Tensor], list[StepReport]]:
    with known(smoke):
        subject = make_subject(smoke, [*SMALL_STEPS, *overrides])
        batch = subject.batch(subject.clips[ranks.rank :: ranks.world_size])
        task = _without_dropout(subject)
        run = make_run(task, optim=subject.recipe.optim, ema_decay=EMA_DECAY, ranks=ranks, total_steps=10, shard=shard)
        reports = []
        for _ in range(steps):
            with SameForEachClip():
                reports.append(train_step(run, [batch]))
        assert not any(report.refused for report in reports)
        held = flat(gathered({name: run.state.state_dict()[name] for name in PARTS}, keep=True))
        return {name: leaf for name, leaf in held.items() if isinstance(leaf, Tensor)}, reports


def _told(apart: dict[str, float], held: Mapping[str, Tensor], reports: Sequence[StepReport]) -> Stepped:
    losses, norms = [dict(report.losses) for report in reports], [dict(report.grad_norms) for report in reports]
    return Stepped(apart, checksums(held.values()).tolist(), losses, norms)


def _apart(held: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the largest difference in each kind of state, as a share of the tensor's largest value, or of 1."""
    assert held.keys() == others.keys()
    found = dict.fromkeys(KINDS, 0.0)
    for name, mine in held.items():
        theirs = others[name].double()
        assert mine.shape == theirs.shape, name
        if mine.numel():
            off = (mine.double() - theirs).abs().max() / theirs.abs().max().clamp_min(1.0)
            assert off.isfinite(), name
            found[_kind_of(name)] = max(found[_kind_of(name)], float(off))
    return found


def _kind_of(name: str) -> str:
    if "_codebook" in name:
        return "codebook"
    return "optimizer state" if name.startswith("optimizers") else "weights"


def _without_dropout(subject: Subject) -> Task:
    task = subject.build()
    task.train()
    for module in task.modules():
        for name in RATES:
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return task
