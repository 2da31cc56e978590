"""Optimizers by name: what a recipe's `kind` builds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch

from ttstrain.errors import RecipeError
from ttstrain.optim import scaled_adam
from ttstrain.optim.adan import Adan
from ttstrain.optim.groups import Group
from ttstrain.optim.lion import Lion
from ttstrain.optim.part import ADAMW_STATE, Part, param_groups
from ttstrain.optim.rounded import RoundedAdamW
from ttstrain.optim.settings import OptimizerSettings, package_of
from ttstrain.optim.without_schedule import prodigy, schedule_free
from ttstrain.tensors.sharded import is_sharded

ADAMW8BIT_EXTRA = frozenset({"qmap1", "qmap2", "absmax1", "absmax2"})  # only tensors of 4096 values and more have them


def make(groups: Sequence[Group], settings: OptimizerSettings, *, embeddings: frozenset[str], seed: int) -> list[Part]:
    """Build the optimizer of these groups: one of torch's, for `muon` two, for `prodigy` one for each named group.

    `embeddings` are the names of embedding tables, which `muon` leaves to AdamW; `seed` is that of stochastic rounding.
    Raises RecipeError when the kind needs a package that is not installed.
    """
    if settings.kind == "muon" and not _in_half_precision(groups):
        return _muon(groups, settings, embeddings)
    if settings.kind == "adamw" and (settings.offload or _in_half_precision(groups)):
        return [_rounded_adamw(groups, settings, seed=seed)]
    if settings.kind == "prodigy" and not _in_half_precision(groups):
        return prodigy(groups, settings)
    builders: dict[str, Callable[[Sequence[Group], OptimizerSettings], Part]] = {
        "adamw": _adamw,
        "adamw8bit": _adamw8bit,
        "lion": _lion,
        "adan": _adan,
        "schedule_free_adamw": schedule_free,
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


def _rounded_adamw(groups: Sequence[Group], settings: OptimizerSettings, *, seed: int) -> Part:
    named = [
        {**torch_group, "names": group.names}
        for torch_group, group in zip(param_groups(groups, betas=True), groups, strict=True)
    ]
    optimizer = RoundedAdamW(named, eps=settings.eps, seed=seed, offload=settings.offload)
    return Part(optimizer, tuple(groups), ADAMW_STATE, apart=True, on_host=settings.offload)


def _adamw(groups: Sequence[Group], settings: OptimizerSettings) -> Part:
    # Fused everywhere. On 2 CPU cores 18M parameters take 7 ms, against 25 to 50 ms with foreach and 45 in a loop.
    optimizer = torch.optim.AdamW(param_groups(groups, betas=True), lr=settings.lr, eps=settings.eps, fused=True)
    return Part(optimizer, tuple(groups), ADAMW_STATE, apart=True)


def _sgd(groups: Sequence[Group], settings: OptimizerSettings) -> Part:
    sharded = any(is_sharded(parameter) for group in groups for parameter in group.parameters)
    # torch's fused SGD knows no shards, and fails where a parameter's first gradient comes after others have momentum
    fused = not sharded and not settings.momentum
    optimizer = torch.optim.SGD(param_groups(groups), lr=settings.lr, momentum=settings.momentum, fused=fused)
    return Part(optimizer, tuple(groups), frozenset({"momentum_buffer"} if settings.momentum else ()), apart=True)


def _lion(groups: Sequence[Group], settings: OptimizerSettings) -> Part:
    return Part(Lion(param_groups(groups, betas=True)), tuple(groups), frozenset({"exp_avg"}), apart=True)


def _adan(groups: Sequence[Group], settings: OptimizerSettings) -> Part:
    optimizer = Adan(param_groups(groups, betas=True), eps=settings.eps)
    return Part(optimizer, tuple(groups), ADAMW_STATE | {"exp_avg_diff", "previous_grad"}, apart=True)


def _scaled_adam(groups: Sequence[Group], settings: OptimizerSettings) -> Part:
    optimizer = scaled_adam.ScaledAdam(param_groups(groups, betas=True), eps=settings.eps)
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
            param_groups(matrices), lr=settings.lr, momentum=settings.momentum, adjust_lr_fn="match_rms_adamw"
        )
        parts.append(Part(muon, tuple(matrices), frozenset({"momentum_buffer"}), apart=True))
    return parts


def _adamw8bit(groups: Sequence[Group], settings: OptimizerSettings) -> Part:
    package = package_of("adamw8bit")
    optimizer = package.optim.AdamW8bit(param_groups(groups, betas=True), lr=settings.lr, eps=settings.eps)
    return Part(optimizer, tuple(groups), frozenset({"step", "state1", "state2"}), ADAMW8BIT_EXTRA)
