"""Measures the relative size of an update, with a copy of only a few weights at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ttstrain.optim.part import Part
from ttstrain.tensors.sharded import held, joint

PIECE_BYTES = 1 << 28  # of weights that are copied at a time, where updates do not depend on each other
_SMALLEST_NORM = 1e-12  # weights that start at zero have a finite, if senseless, ratio


@dataclass(slots=True)
class Moves:
    """Norms of weights before an update, and of the change, by group."""

    weights: dict[str, list[Tensor]] = field(default_factory=dict)
    changes: dict[str, list[Tensor]] = field(default_factory=dict)

    def ratios(self) -> dict[str, Tensor]:
        """Return group -> norm of the change over norm of the weights before."""
        return {
            group: _joint(changes) / _joint(self.weights[group]).clamp_min(_SMALLEST_NORM)
            for group, changes in self.changes.items()
        }


def measure_whole(groups: Mapping[str, Sequence[Tensor]], step: Callable[[], object], moves: Moves) -> None:
    """Let `step` update these groups at once, beside a copy of all their weights."""
    before = {group: copied(own) for group, own in groups.items()}
    step()
    for group, own in groups.items():
        compare(before.pop(group), own, moves, group=group)


def measure_in_pieces(part: Part, moves: Moves) -> None:
    """Let a part step for a few of its parameters at a time, which gives the same weights, beside a copy of those."""
    optimizer = part.optimizer
    every = optimizer.param_groups
    try:
        for group, torch_group in zip(part.groups, every, strict=True):
            for piece in _pieces(torch_group):
                optimizer.param_groups = [piece]
                measure_whole({group.name: piece["params"]}, optimizer.step, moves)
    finally:
        optimizer.param_groups = every


def copied(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return copies of parameters."""
    return [held(parameter).detach().clone() for parameter in parameters]


@torch.no_grad()
def compare(before: list[Tensor], parameters: Sequence[Tensor], moves: Moves, *, group: str) -> None:
    """Add the norms of the old weights and of the change; overwrites `before`."""
    moves.weights.setdefault(group, []).extend(_norms(before, parameters))
    torch._foreach_sub_(before, [held(parameter) for parameter in parameters])
    moves.changes.setdefault(group, []).extend(_norms(before, parameters))


def _norms(rows: list[Tensor], parameters: Sequence[Tensor]) -> Iterable[Tensor]:
    return joint(torch.stack(torch._foreach_norm(rows)), parameters).unbind()


def _pieces(torch_group: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Cut one of torch's parameter groups, and its names, into pieces of at most `PIECE_BYTES` or one parameter."""
    parameters: list[Tensor] = torch_group["params"]
    start = size = 0
    for end, parameter in enumerate(parameters):
        if end > start and size + parameter.nbytes > PIECE_BYTES:
            yield _piece(torch_group, slice(start, end))
            start, size = end, 0
        size += parameter.nbytes
    if parameters:
        yield _piece(torch_group, slice(start, None))


def _piece(torch_group: Mapping[str, Any], chosen: slice) -> dict[str, Any]:
    return {**torch_group, **{key: torch_group[key][chosen] for key in ("params", "names") if key in torch_group}}


def _joint(norms: list[Tensor]) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return norm
