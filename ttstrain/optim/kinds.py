"""Optimizers by name: what a recipe's `kind` builds."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ttstrain.errors import RecipeError
from ttstrain.optim import scaled_adam
from ttstrain.optim.adan import Adan
from ttstrain.optim.groups import Group
from ttstrain.optim.lion import Lion
from ttstrain.optim.rounded import RoundedAdamW
from ttstrain.optim.settings import OptimizerSettings
from ttstrain.optim.stages import Stage

ADAMW_STATE = frozenset({"step", "exp_avg", "exp_avg_sq"})
ADAMW8BIT_EXTRA = frozenset({"qmap1", "qmap2", "absmax1", "absmax2"})  # only tensors of 4096 values and more have them
SCHEDULE_FREE_SCALARS = ("k", "weight_sum", "lr_max")  # kept per group by the package, per parameter on disk


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One torch optimizer; `optimizer.param_groups[i]` holds `groups[i]`."""

    optimizer: torch.optim.Optimizer
    groups: tuple[Group, ...]
    state_keys: frozenset[str]  # what each parameter has once it has stepped; all but `step` have its shape
    optional_keys: frozenset[str] = frozenset()
    apart: bool = False  # updates of parameters are independent of each other
    schedule_free: bool = False  # the weights it trains differ from those it is evaluated with


def make(groups: Sequence[Group], settings: OptimizerSettings, *, embeddings: frozenset[str], seed: int) -> list[Part]:
    """Build the optimizer of these groups: one of torch's, or for `muon` two.

    `embeddings` are the names of embedding tables, which `muon` leaves to AdamW; `seed` is that of stochastic rounding.
    Raises RecipeError when the kind needs a package that is not installed.
    """
    if settings.kind == "muon" and not _in_half_precision(groups):
        return _muon(groups, settings, embeddings)
    if settings.kind == "adamw" and _in_half_precision(groups):
        return [_rounded_adamw(groups, settings, seed=seed)]
    builders: dict[str, Callable[[Sequence[Group], OptimizerSettings], Part]] = {
        "adamw": _adamw,
        "adamw8bit": _adamw8bit,
        "lion": _lion,
        "adan": _adan,
        "schedule_free_adamw": _schedule_free,
        "scaled_adam": _scaled_adam,
        "sgd": _sgd,
    }
    if _in_half_precision(groups):
        raise RecipeError(
            f"`{settings.kind}` does not work with bf16 weights: rounding to bf16 would drop most updates",
            hint="use `optim.kind=adamw`, which rounds stochastically, or fp32 weights",
        )
    return [builders[settings.kind](groups, settings)]


def _in_half_precision(groups: Iterable[Group]) -> bool:
    return any(parameter.dtype == torch.bfloat16 for group in groups for parameter in group.parameters)


def _param_groups(groups: Iterable[Group], *, betas: bool = False) -> list[dict[str, Any]]:
    return [
        {"params": list(group.parameters), "lr": group.lr, "weight_decay": group.weight_decay}
        | ({"betas": group.betas} if betas else {})
        for group in groups
    ]


def _rounded_adamw(groups: Sequence[Group], settings: OptimizerSettings, *, seed: int) -> Part:
    named = [
        {**torch_group, "names": group.names}
        for torch_group, group in zip(_param_groups(groups, betas=True), groups, strict=True)
    ]
    return Part(RoundedAdamW(named, eps=settings.eps, seed=seed), tuple(groups), ADAMW_STATE, apart=True)


def _adamw(groups: Sequence[Group], settings: OptimizerSettings) -> Part:
    # Fused everywhere. On 2 CPU cores 18M parameters take 7 ms, against 25 to 50 ms with foreach and 45 in a loop.
    optimizer = torch.optim.AdamW(_param_groups(groups, betas=True), lr=settings.lr, eps=settings.eps, fused=True)
    return Part(optimizer, tuple(groups), ADAMW_STATE, apart=True)


def _sgd(groups: Sequence[Group], settings: OptimizerSettings) -> Part:
    optimizer = torch.optim.SGD(_param_groups(groups), lr=settings.lr, momentum=settings.momentum, fused=True)
    return Part(optimizer, tuple(groups), frozenset({"momentum_buffer"} if settings.momentum else ()), apart=True)


def _lion(groups: Sequence[Group], settings: OptimizerSettings) -> Part:
    return Part(Lion(_param_groups(groups, betas=True)), tuple(groups), frozenset({"exp_avg"}), apart=True)


def _adan(groups: Sequence[Group], settings: OptimizerSettings) -> Part:
    optimizer = Adan(_param_groups(groups, betas=True), eps=settings.eps)
    return Part(optimizer, tuple(groups), ADAMW_STATE | {"exp_avg_diff", "previous_grad"}, apart=True)


def _scaled_adam(groups: Sequence[Group], settings: OptimizerSettings) -> Part:
    optimizer = scaled_adam.ScaledAdam(_param_groups(groups, betas=True), eps=settings.eps)
    return Part(optimizer, tuple(groups), scaled_adam.STATE, scaled_adam.EXTRA)


def _muon(groups: Sequence[Group], settings: OptimizerSettings, embeddings: frozenset[str]) -> list[Part]:
    """Give the matrices to Muon and the rest to AdamW, under one LR.

    Muon's update is scaled to the size of AdamW's (arXiv 2502.16982), so that a peak LR means the same for both.
    """
    matrices: list[Group] = []
    others: list[Group] = []
    for group in groups:
        chosen = [
            parameter.ndim == 2 and name not in embeddings
            for name, parameter in zip(group.names, group.parameters, strict=True)
        ]
        for half, wanted in ((matrices, True), (others, False)):
            indices = [i for i, is_matrix in enumerate(chosen) if is_matrix is wanted]
            if indices:
                names = tuple(group.names[i] for i in indices)
                half.append(replace(group, names=names, parameters=tuple(group.parameters[i] for i in indices)))
    parts = [_adamw(others, settings)] if others else []
    if matrices:
        muon = torch.optim.Muon(
            _param_groups(matrices), lr=settings.lr, momentum=settings.momentum, adjust_lr_fn="match_rms_adamw"
        )
        parts.append(Part(muon, tuple(matrices), frozenset({"momentum_buffer"}), apart=True))
    return parts


def _adamw8bit(groups: Sequence[Group], settings: OptimizerSettings) -> Part:
    package = _optional("bitsandbytes", kind="adamw8bit", install="ttstrain[adamw8bit]")
    optimizer = package.optim.AdamW8bit(_param_groups(groups, betas=True), lr=settings.lr, eps=settings.eps)
    return Part(optimizer, tuple(groups), frozenset({"step", "state1", "state2"}), ADAMW8BIT_EXTRA)


def _schedule_free(groups: Sequence[Group], settings: OptimizerSettings) -> Part:
    """Defazio et al., The Road Less Scheduled (arXiv 2405.15682), from its authors' package."""
    package = _optional("schedulefree", kind="schedule_free_adamw", install="schedulefree")
    optimizer = package.AdamWScheduleFree(_param_groups(groups, betas=True), lr=settings.lr, eps=settings.eps)
    optimizer.train()  # until `Optimizers.evaluating` switches to evaluation
    return Part(
        optimizer,
        tuple(groups),
        frozenset({"z", "exp_avg_sq"}),
        optional_keys=frozenset(SCHEDULE_FREE_SCALARS),
        schedule_free=True,
    )


def check_never_frozen(groups: Sequence[Group], stages: Sequence[Stage]) -> None:
    """Refuse groups that are frozen in some steps, for an optimizer that counts steps per group."""
    for group in groups:
        frozen = ["a range of frozen steps"] if group.frozen_range is not None else []
        frozen += [f"a stage that freezes it (`{stage.name}`)" for stage in stages if not stage.trains(group)]
        if frozen:
            raise RecipeError(
                f"`schedule_free_adamw` cannot train group `{group.name}` with {frozen[0]}",
                hint="it counts steps per group, not per parameter; use `adamw`, or `frozen: true`",
            )


def _optional(package: str, *, kind: str, install: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise RecipeError(
            f"optimizer `{kind}` needs the package `{package}`: {error}", hint=f"pip install '{install}'"
        ) from error
