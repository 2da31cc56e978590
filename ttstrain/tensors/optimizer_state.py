"""The state of a torch optimizer as it came out of another trainer's file, checked before anything relies on it.

`torch.optim.Optimizer.state_dict()` is `{"state": {index: {name: tensor}}, "param_groups": [{"lr", "params", ...}]}`.
In a file it may be anything: the parts are returned with their types, or the whole is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ttstrain.tensors.tensorfile import StoredTensor

_MOST = 1 << 53  # a counter beyond this is no counter


@dataclass(frozen=True, slots=True)
class StoredGroup:
    """A parameter group."""

    lr: float
    weight_decay: float
    params: tuple[int, ...]  # indices into the state
    initial_lr: float | None = None  # before a schedule changed it


@dataclass(frozen=True, slots=True)
class StoredOptimizer:
    """An optimizer's groups, and its state by the index of a parameter."""

    states: Mapping[int, Mapping[str, Any]]
    groups: tuple[StoredGroup, ...]

    def of(self, index: int) -> Mapping[str, Any]:
        """Return the state of a parameter; empty for one that was not trained yet."""
        return self.states.get(index, {})


def read_optimizer(tree: Any) -> StoredOptimizer | None:
    """Return the state of an optimizer; None where `tree` is something else."""
    if not isinstance(tree, Mapping):
        return None
    states, groups = tree.get("state"), tree.get("param_groups")
    if not isinstance(states, Mapping) or not isinstance(groups, list | tuple) or not groups:
        return None
    if not all(type(index) is int and _is_state(state) for index, state in states.items()):
        return None
    read = [_group(group) for group in groups]
    known = tuple(group for group in read if group is not None)
    return StoredOptimizer(states, known) if len(known) == len(read) else None


def _is_state(state: Any) -> bool:
    return isinstance(state, Mapping) and all(isinstance(name, str) for name in state)


def _group(group: Any) -> StoredGroup | None:
    if not isinstance(group, Mapping):
        return None
    params, lr, decay = group.get("params"), number(group.get("lr")), number(group.get("weight_decay", 0.0))
    if not isinstance(params, list | tuple) or not all(type(index) is int for index in params):
        return None
    if lr is None or decay is None:
        return None
    return StoredGroup(lr, decay, tuple(params), initial_lr=number(group.get("initial_lr")))


def number(value: Any) -> float | None:
    """Return a finite number, also where it is kept as a tensor; None for anything else."""
    if isinstance(value, StoredTensor):
        value = value.read().reshape(-1)[0].item() if value.numel == 1 else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def counter(value: Any) -> int | None:
    """Return how often something was done, also where it is kept as a tensor; None for anything else."""
    found = number(value)
    return int(found) if found is not None and 0 <= found < _MOST else None
