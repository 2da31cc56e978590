"""Checks that upstream's trainer can resume from a training file: runs its loading and its first update."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LinearLR, LRScheduler, SequentialLR

from ttstrain.errors import CheckpointError
from ttstrain.families.flow.config import FlowConfig
from ttstrain.families.flow.task import FlowTask

GRADIENT = 1e-3  # of every weight: any that is not zero will do


def prove(file: Path, config: FlowConfig, *, step: int) -> str:
    """Resume torch's AdamW and upstream's scheduler from a file of `step` updates; return a line that says so.

    Raises CheckpointError when they cannot.
    """
    content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    weights = content["model_state_dict"]
    with torch.device("meta"):
        names = [name for name, _ in FlowTask(config).named_parameters()]
    parameters = [nn.Parameter(weights[name]) for name in names]
    optimizer = torch.optim.AdamW(parameters, lr=1.0)
    parts: list[LRScheduler] = [
        LinearLR(optimizer, start_factor=1e-8, end_factor=1.0, total_iters=total) for total in (2, 3)
    ]
    scheduler = SequentialLR(optimizer, schedulers=parts, milestones=[2])
    try:
        optimizer.load_state_dict(content["optimizer_state_dict"])
        scheduler.load_state_dict(content["scheduler_state_dict"])
        for name, parameter in zip(names, parameters, strict=True):
            _check_shapes(name, parameter, optimizer.state[parameter])
            parameter.grad = torch.full_like(parameter, GRADIENT)
        optimizer.step()
        scheduler.step()
    except (KeyError, ValueError, RuntimeError) as error:
        raise _refusal(file, f"{type(error).__name__}: {error}") from error
    counts = {float(optimizer.state[parameter]["step"]) for parameter in parameters}
    if not all(bool(torch.isfinite(parameter).all()) for parameter in parameters):
        raise _refusal(file, "weights are not finite after one update")
    if not all(1 <= count <= step + 1 for count in counts) or scheduler.last_epoch != step + 1:
        raise _refusal(
            file,
            f"the optimizer counts {sorted(counts)} updates and the scheduler {scheduler.last_epoch}, not {step + 1}",
        )
    lrs = {group["lr"] for group in optimizer.param_groups}
    return f"training: torch's AdamW makes update {step + 1:,} from it, at LR {', '.join(f'{lr:.3g}' for lr in lrs)}"


def _check_shapes(name: str, parameter: Tensor, state: dict[str, Any]) -> None:
    """Raise ValueError for optimizer state of another shape: torch's fused kernel would read out of bounds."""
    for key, value in state.items():
        if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
            raise ValueError(f"`{key}` of `{name}` is {tuple(value.shape)}, not {tuple(parameter.shape)}")


def _refusal(file: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"upstream's trainer could not resume from the training file `{file.name}`: {what}",
        hint="nothing was exported; leave out `--format training`, and please report this",
    )
