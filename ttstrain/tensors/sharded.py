"""Tensors of which each process holds some rows: DTensors, as FSDP2 makes them of a task's parameters.

A tensor that is not sharded passes through every function here unchanged. Nothing here imports torch's distributed
tensors by itself: a run that shards nothing does not wait for them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ttstrain.state import Tree

_HALF = (torch.float16, torch.bfloat16)


def is_sharded(tensor: Tensor) -> bool:
    """Tell whether this process may hold only some rows of a tensor."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def held(tensor: Tensor) -> Tensor:
    """Return the rows that this process holds, in the same memory; without a gradient of their own."""
    if not is_sharded(tensor):
        return tensor
    with torch.no_grad():
        rows: Tensor = _dtensor(tensor).to_local()
        return rows


def num_parts(tensor: Tensor) -> int:
    """Return into how many parts a tensor is cut; the process of rank r holds part r modulo that number."""
    if not is_sharded(tensor):
        return 1
    sharded = _dtensor(tensor)
    sizes = [sharded.device_mesh.size(dim) for dim, placed in enumerate(sharded.placements) if placed.is_shard()]
    return math.prod(sizes)


def first_row(tensor: Tensor) -> int:
    """Return the number of the first row that this process holds."""
    if not is_sharded(tensor):
        return 0
    rows = torch.arange(len(tensor))
    return int(cut(rows, tensor)[0]) if len(held(tensor)) else len(tensor)


def cut(whole: Tensor, like: Tensor) -> Tensor:
    """Return the rows of a whole tensor that this process holds of `like`; a view.

    Also takes the rows themselves, and returns them.
    """
    if not is_sharded(like) or (whole.shape == held(like).shape != like.shape):
        return whole
    sharded, part = _dtensor(like), whole
    for dim, placement in enumerate(sharded.placements):
        if placement.is_shard():
            pieces = torch.chunk(part, sharded.device_mesh.size(dim))
            at = sharded.device_mesh.get_local_rank(dim)
            part = pieces[at] if at < len(pieces) else part[:0]
    return part


def sharded_as(saved: Tensor, like: Tensor) -> Tensor:
    """Return a saved tensor, or the rows that this process saved, as a tensor that is sharded as `like` is."""
    if not is_sharded(like) or is_sharded(saved):
        return saved
    return _wrapped(cut(saved, like), like)


def like_own(rows: Tensor, like: Tensor) -> Tensor:
    """Return new rows of this process as a tensor that is sharded as `like` is; they have the shape of its rows."""
    return _wrapped(rows, like) if is_sharded(like) else rows


def whole(tensor: Tensor) -> Tensor:
    """Gather a tensor on every process; all of them call it."""
    if not is_sharded(tensor):
        return tensor
    with torch.no_grad():
        gathered: Tensor = _dtensor(tensor).full_tensor()
        return gathered


@torch.no_grad()
def norms(tensors: Sequence[Tensor]) -> Tensor:
    """Return the 2-norm of each tensor, (tensors,); those of half-precision tensors are computed in fp32."""
    rows = [held(tensor) for tensor in tensors]
    half = any(one.dtype in _HALF for one in rows)
    return joint(torch.stack(torch._foreach_norm(rows, 2.0, torch.float32 if half else None)), tensors)


@torch.no_grad()
def joint(measured: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """Return whole tensors' 2-norms (n,), given those of the rows that this process holds; all processes call it."""
    of_rows = [is_sharded(tensor) for tensor in tensors]
    if not any(of_rows):
        return measured
    sharded = _dtensor(tensors[of_rows.index(True)])
    squares = measured.square()
    for dim, placement in enumerate(sharded.placements):
        if placement.is_shard():
            torch.distributed.all_reduce(squares, group=sharded.device_mesh.get_group(dim))
    return torch.where(torch.tensor(of_rows, device=measured.device), squares.sqrt(), measured)


# ---------------------------------------------------------------- state trees


def rows_of(tree: Tree) -> Tree:
    """Return a state tree with the rows that this process holds in the place of sharded tensors."""
    return _each(tree, held)


def gathered(tree: Tree, *, keep: bool) -> Tree:
    """Gather the sharded tensors of a state tree on the host, one at a time; all processes call it.

    Only processes that `keep` get them; the others get their own rows. Tensors that share memory share it afterwards.
    """
    known: dict[Any, Tensor] = {}

    def gather(tensor: Tensor) -> Tensor:
        if not is_sharded(tensor):
            return tensor
        rows = held(tensor)
        key = (rows.untyped_storage()._cdata, rows.storage_offset(), tensor.shape)
        if key not in known:
            found = whole(tensor)
            known[key] = found.to("cpu", copy=True) if keep else rows
        return known[key]

    return _each(tree, gather)


def load_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load whole tensors, or this process's rows, into a module that may be sharded."""
    live = module.state_dict()
    module.load_state_dict(
        {name: sharded_as(saved, live[name]) if name in live else saved for name, saved in state.items()}, strict=True
    )


class ModuleWeights:
    """The weights of a module, which may be sharded, as a part of the training state.

    Those that are left out cannot change while the module is trained, so that they need not be held twice.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._left_out: frozenset[str] = frozenset()

    def leave_out(self, names: Collection[str]) -> None:
        """Leave these weights out of the state from now on."""
        self._left_out = frozenset(names)

    def state_dict(self) -> dict[str, Any]:
        return {name: tensor for name, tensor in self._module.state_dict().items() if name not in self._left_out}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        stay = {name: tensor for name, tensor in self._module.state_dict().items() if name in self._left_out}
        load_state(self._module, {**stay, **state_dict})


def _each(tree: Tree, change: Any) -> Tree:
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, Mapping):
        return {key: _each(value, change) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_each(value, change) for value in tree]
    return tree


def _wrapped(rows: Tensor, like: Tensor) -> Tensor:
    from torch.distributed.tensor import DTensor

    sharded = _dtensor(like)
    with torch.no_grad():
        return DTensor.from_local(
            rows,
            sharded.device_mesh,
            sharded.placements,
            run_check=False,
            shape=sharded.shape,
            stride=sharded.stride(),
        )


def _dtensor(tensor: Tensor) -> Any:
    return tensor
