"""The training state: everything that a run needs to continue.

Resume, `--reset-step`, rollback and snapshots are the same call with different parts in `keep`.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ttstrain.errors import CheckpointError

Tree = Any  # nested dicts and lists whose leaves are tensors or JSON values


class Stateful(Protocol):
    """An object whose state can be saved and restored."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> Any: ...


@dataclass(slots=True)
class Progress:
    """How far the run is. One `step` is one update of the optimizers."""

    step: int = 0
    micro_batches: int = 0
    clips: int = 0
    frames: int = 0
    owes_evaluation: bool = False  # an evaluation was due after this step and a signal left no time for it

    def state_dict(self) -> dict[str, Any]:
        state = {"step": self.step, "micro_batches": self.micro_batches, "clips": self.clips, "frames": self.frames}
        return {**state, "owes_evaluation": True} if self.owes_evaluation else state

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        self.step = int(state_dict["step"])
        self.micro_batches = int(state_dict["micro_batches"])
        self.clips = int(state_dict["clips"])
        self.frames = int(state_dict["frames"])
        self.owes_evaluation = bool(state_dict.get("owes_evaluation", False))


class TrainState:
    """A named set of `Stateful` parts."""

    def __init__(self, **parts: Stateful) -> None:
        self.parts = parts

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every part; tensors are shared with the run, not copied."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any], *, keep: Collection[str] = ()) -> None:
        """Restore every part except those in `keep`, which stay unchanged.

        Raises CheckpointError if a part to restore is missing: no part is reset silently.
        """
        if unknown := set(keep) - set(self.parts):
            raise ValueError(f"unknown parts of the training state: {sorted(unknown)}")
        wanted = [name for name in self.parts if name not in keep]
        if missing := [name for name in wanted if name not in state_dict]:
            raise CheckpointError(
                f"the checkpoint has no {', '.join(missing)}",
                hint="use it as `base:` of a new run, or reset the missing parts by name",
            )
        for name in wanted:
            self.parts[name].load_state_dict(state_dict[name])

    def snapshot(self) -> dict[str, Any]:
        """Copy the state to host memory, so that later steps cannot change it."""
        return {name: detach_copy(part.state_dict()) for name, part in self.parts.items()}


def detach_copy(tree: Tree) -> Tree:
    """Deep-copy a state tree, with tensors on the CPU."""
    if isinstance(tree, torch.Tensor):
        return tree.detach().to("cpu", copy=True)
    if isinstance(tree, Mapping):
        return {key: detach_copy(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [detach_copy(value) for value in tree]
    return copy.deepcopy(tree)
