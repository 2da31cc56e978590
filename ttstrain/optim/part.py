"""A torch optimizer with the groups it updates and what it keeps for each parameter."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from ttstrain.optim.groups import Group

ADAMW_STATE = frozenset({"step", "exp_avg", "exp_avg_sq"})


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One torch optimizer; `optimizer.param_groups[i]` holds `groups[i]`."""

    optimizer: torch.optim.Optimizer
    groups: tuple[Group, ...]
    state_keys: frozenset[str]  # what each parameter has once it has stepped; all but `step` have its shape
    optional_keys: frozenset[str] = frozenset()
    apart: bool = False  # updates of parameters are independent of each other
    schedule_free: bool = False  # the weights it trains differ from those it is evaluated with
    scalars: tuple[str, ...] = ()  # numbers that the package keeps per torch group; on disk, each parameter has them
    on_host: bool = False  # whether the state lies in the host's memory, wherever the parameters are
    found_lr: str | None = None  # the scalar with the LR that the optimizer has found; all its torch groups share it

    @property
    def known_keys(self) -> frozenset[str]:
        """What the state of a parameter may hold."""
        return self.state_keys | self.optional_keys | frozenset(self.scalars)


def param_groups(groups: Iterable[Group], *, betas: bool = False) -> list[dict[str, Any]]:
    """Return the groups as torch's optimizers take them."""
    return [
        {"params": list(group.parameters), "lr": group.lr, "weight_decay": group.weight_decay}
        | ({"betas": group.betas} if betas else {})
        for group in groups
    ]
