"""Optimizers that need no LR schedule, or no LR at all, from their authors' packages."""

from __future__ import annotations

from collections.abc import Sequence

from ttstrain.errors import RecipeError
from ttstrain.optim.groups import Group
from ttstrain.optim.part import Part, param_groups
from ttstrain.optim.settings import OptimizerSettings, package_of
from ttstrain.optim.stages import Stage


def schedule_free(groups: Sequence[Group], settings: OptimizerSettings) -> Part:
    """Defazio et al., The Road Less Scheduled (arXiv 2405.15682).

    The LR of each update is the plan's, warmup included. The package weights each update's share of the average by
    the square of the highest LR so far, whoever sets the LR, so its own `warmup_steps` stays 0.
    """
    package = package_of("schedule_free_adamw")
    optimizer = package.AdamWScheduleFree(param_groups(groups, betas=True), lr=settings.lr, eps=settings.eps)
    optimizer.train()  # until `Optimizers.evaluating` switches to evaluation
    return Part(
        optimizer,
        tuple(groups),
        frozenset({"z", "exp_avg_sq"}),
        schedule_free=True,
        scalars=("k", "weight_sum", "lr_max"),
    )


def prodigy(groups: Sequence[Group], settings: OptimizerSettings) -> list[Part]:
    """Mishchenko and Defazio, Prodigy (arXiv 2306.06101): each named group finds an LR of its own.

    The package trains all groups of one optimizer at one LR, so every name gets an optimizer. A group's factor
    (`lr_scale`, times `optim.d_coef`) goes where the authors put such factors, into `d_coef`. The schedule's factor is
    the package's `lr`. `safeguard_warmup` is what they ask for under a warmup or a restart; with
    `use_bias_correction` and decoupled weight decay it is also their setting for diffusion models.
    """
    package = package_of("prodigy")
    named: dict[str, list[Group]] = {}
    for group in groups:
        named.setdefault(group.name, []).append(group)
    return [
        Part(
            package.Prodigy(
                param_groups(own, betas=True),
                lr=1.0,
                eps=settings.eps,
                d_coef=own[0].lr,
                safeguard_warmup=True,
                use_bias_correction=True,
            ),
            tuple(own),
            frozenset({"step", "exp_avg_sq"} | ({"exp_avg"} if own[0].betas[0] > 0 else set())),
            optional_keys=frozenset({"s", "p0"}),  # flat, and `p0` of weights that start at zero is a single 0
            scalars=("d", "d_max", "d_numerator", "k"),
            found_lr="d",
        )
        for own in named.values()
    ]


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
