"""The settings of each optimizer of a task, with per-optimizer overrides applied. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from ttstrain.errors import RecipeError
from ttstrain.recipe.schema import GroupRule, OptimConfig, OptimizerKind, OptimizerOverride

READS_MOMENTUM: frozenset[OptimizerKind] = frozenset({"muon", "sgd"})
READS_BETAS: frozenset[OptimizerKind] = frozenset(
    {"adamw", "adamw8bit", "lion", "adan", "muon", "schedule_free_adamw", "scaled_adam"}
)
READS_EPS: frozenset[OptimizerKind] = READS_BETAS - {"lion"}
LR_AS_ADAMW: frozenset[OptimizerKind] = frozenset({"adamw", "adamw8bit", "muon", "schedule_free_adamw"})
"""Kinds whose LR has the same scale as AdamW's."""


@dataclass(frozen=True, slots=True)
class OptimizerSettings:
    """One optimizer's settings, complete."""

    kind: OptimizerKind
    lr: float
    weight_decay: float
    betas: tuple[float, float]
    eps: float
    momentum: float
    max_grad_norm: float | None


def settings_of(optim: OptimConfig, optimizer: str) -> OptimizerSettings:
    """Apply `optim.optimizers.<optimizer>` to `optim`; a key that the override leaves null is taken from `optim`.

    Raises RecipeError if the override sets a key that its kind of optimizer does not use.
    """
    own = optim.optimizers.get(optimizer, OptimizerOverride())
    kind = optim.kind if own.kind is None else own.kind
    readers = {"betas": READS_BETAS, "eps": READS_EPS, "momentum": READS_MOMENTUM}
    for key, kinds in readers.items():
        if getattr(own, key) is not None and kind not in kinds:
            raise RecipeError(
                f"`optim.optimizers.{optimizer}.{key}` is not used by `{kind}`",
                hint=f"it is a setting of {', '.join(sorted(kinds))}",
            )
    return OptimizerSettings(
        kind=kind,
        lr=optim.lr if own.lr is None else own.lr,
        weight_decay=optim.weight_decay if own.weight_decay is None else own.weight_decay,
        betas=optim.betas if own.betas is None else own.betas,
        eps=optim.eps if own.eps is None else own.eps,
        momentum=optim.momentum if own.momentum is None else own.momentum,
        max_grad_norm=optim.max_grad_norm if own.max_grad_norm is None else own.max_grad_norm,
    )


def peak_lr(rule: GroupRule | None, settings: OptimizerSettings) -> float:
    """Return the peak LR of a group: its own `lr`, else the optimizer's times `lr_scale`."""
    if rule is None:
        return settings.lr
    if rule.lr is not None:
        return rule.lr
    return settings.lr * (1.0 if rule.lr_scale is None else rule.lr_scale)
