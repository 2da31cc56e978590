"""The settings of each optimizer of a task, with per-optimizer overrides applied. Imports no torch."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ttstrain.errors import RecipeError
from ttstrain.recipe.schema import GroupRule, OptimConfig, OptimizerKind, OptimizerOverride

READS_MOMENTUM: frozenset[OptimizerKind] = frozenset({"muon", "sgd"})
READS_BETAS: frozenset[OptimizerKind] = frozenset(
    {"adamw", "adamw8bit", "lion", "adan", "muon", "schedule_free_adamw", "scaled_adam", "prodigy"}
)
READS_EPS: frozenset[OptimizerKind] = READS_BETAS - {"lion"}
LR_AS_ADAMW: frozenset[OptimizerKind] = frozenset({"adamw", "adamw8bit", "muon", "schedule_free_adamw", "prodigy"})
"""Kinds whose LR has the same scale as AdamW's."""
FINDS_LR: frozenset[OptimizerKind] = frozenset({"prodigy"})
"""Kinds that find their LR while they train; what stands for an LR in a plan is a factor of what they find."""
WITHOUT_SCHEDULE: frozenset[OptimizerKind] = frozenset({"schedule_free_adamw"})
"""Kinds that average the weights so that the LR need not fall."""
PACKAGES: Mapping[OptimizerKind, tuple[str, str]] = {
    "adamw8bit": ("bitsandbytes", "ttstrain[adamw8bit]"),
    "prodigy": ("prodigyopt", "ttstrain[optimizers]"),
    "schedule_free_adamw": ("schedulefree", "ttstrain[optimizers]"),
}
"""Kinds that need a package: its name, and what to install."""


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
    offload: bool = False


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
    if kind in FINDS_LR and own.lr is not None:
        raise RecipeError(
            f"`optim.optimizers.{optimizer}.lr` is not used by `{kind}`, which finds the LR itself",
            hint=f"remove it, `~optim.optimizers.{optimizer}.lr`; `optim.d_coef` is a factor of the LR that it finds",
        )
    return OptimizerSettings(
        kind=kind,
        lr=optim.d_coef if kind in FINDS_LR else optim.lr if own.lr is None else own.lr,
        weight_decay=optim.weight_decay if own.weight_decay is None else own.weight_decay,
        betas=optim.betas if own.betas is None else own.betas,
        eps=optim.eps if own.eps is None else own.eps,
        momentum=optim.momentum if own.momentum is None else own.momentum,
        max_grad_norm=optim.max_grad_norm if own.max_grad_norm is None else own.max_grad_norm,
        offload=optim.offload,
    )


def peak_lr(rule: GroupRule | None, settings: OptimizerSettings) -> float:
    """Return the peak LR of a group: its own `lr`, else the optimizer's times `lr_scale`.

    Raises RecipeError for a group's own `lr` where the optimizer finds it.
    """
    if rule is None:
        return settings.lr
    if rule.lr is not None and settings.kind in FINDS_LR:
        raise RecipeError(
            f"`optim.groups`: group `{rule.name}` sets `lr`, and `{settings.kind}` finds the LR itself",
            hint="give the group an `lr_scale`: a factor of the LR that is found; or choose another `optim.kind`",
        )
    if rule.lr is not None:
        return rule.lr
    return settings.lr * (1.0 if rule.lr_scale is None else rule.lr_scale)


def check_installed(optim: OptimConfig) -> None:
    """Raise RecipeError if an optimizer of the recipe needs a package that cannot be imported."""
    for kind in {optim.kind, *(own.kind for own in optim.optimizers.values() if own.kind is not None)}:
        if kind in PACKAGES:
            package_of(kind)


def package_of(kind: OptimizerKind) -> Any:
    """Import the package of a kind of optimizer. Raises RecipeError if it cannot be imported."""
    package, install = PACKAGES[kind]
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise RecipeError(
            f"optimizer `{kind}` needs the package `{package}`: {error}", hint=f"pip install '{install}'"
        ) from error
