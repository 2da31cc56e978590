"""Copies of a training state in host memory that is allocated once and overwritten by the next copy."""

from __future__ import annotations

import copy
import logging
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ttstrain.state import Tree

ALIGNMENT = 512  # bytes; every tensor of a block begins at a multiple of it
Path = tuple[str | int, ...]


class HostCopy:
    """Keeps one copy of a state tree in host memory.

    A tensor that had this shape and type in the last copy is copied into the same memory; only new ones are allocated,
    in one block. The memory of tensors on a GPU is page-locked, so that they are copied without waiting for each.
    """

    def __init__(self) -> None:
        self._own: dict[Path, Tensor] = {}

    def take(self, tree: Tree) -> Tree:
        """Return a deep copy of a tree, with tensors in host memory; overwrites the copy that was taken before.

        Tensors that share memory share it in the copy, too.
        """
        found = dict(_tensors(tree, ()))
        first: dict[Any, Path] = {}
        same = {path: first.setdefault(_identity(tensor), path) for path, tensor in found.items()}
        self._provide({path: found[path] for path in first.values()})
        for path, own in self._own.items():
            own.copy_(found[path].detach(), non_blocking=True)
        for device in {found[path].device for path in self._own if found[path].is_cuda}:
            torch.cuda.synchronize(device)
        return _filled(tree, (), {path: self._own[source] for path, source in same.items()})

    def drop(self) -> None:
        """Release the memory."""
        self._own = {}

    def _provide(self, wanted: Mapping[Path, Tensor]) -> None:
        """Keep the memory that fits the wanted tensors, drop the rest, and allocate what is missing."""
        kept = {path: own for path, own in self._own.items() if path in wanted and _fits(own, wanted[path])}
        missing = {path: tensor for path, tensor in wanted.items() if path not in kept}
        self._own = kept  # before the allocation: what no longer fits is released first
        on_gpu = [path for path, tensor in missing.items() if tensor.is_cuda]
        on_host = [path for path in missing if path not in set(on_gpu)]
        self._own |= _allocated({path: missing[path] for path in on_host}, page_locked=False)
        self._own |= _allocated({path: missing[path] for path in on_gpu}, page_locked=True)


def zeros_on_host(like: Tensor, *, dtype: torch.dtype) -> Tensor:
    """Return zeros in the host's memory, of a tensor's shape; page-locked where the tensor is on a GPU."""
    outline = torch.empty(like.shape, dtype=dtype, device="meta")
    return _allocated({(): outline}, page_locked=like.is_cuda)[()].zero_()


def _fits(own: Tensor, tensor: Tensor) -> bool:
    return own.shape == tensor.shape and own.dtype == tensor.dtype


def _allocated(tensors: Mapping[Path, Tensor], *, page_locked: bool) -> dict[Path, Tensor]:
    """Allocate memory for these tensors in one block."""
    if not tensors:
        return {}
    sizes = [-(-tensor.numel() * tensor.element_size() // ALIGNMENT) * ALIGNMENT for tensor in tensors.values()]
    block = torch.empty(sum(sizes), dtype=torch.uint8)
    if page_locked and len(block):
        _lock_pages(block)
    pieces = zip(tensors.items(), torch.split(block, sizes), strict=True)
    return {
        path: piece[: tensor.numel() * tensor.element_size()].view(tensor.dtype).view(tensor.shape)
        for (path, tensor), piece in pieces
    }


def _lock_pages(block: Tensor) -> None:
    """Page-lock a block until it is freed. Not by torch's allocator, which rounds sizes up to a power of two."""
    cudart: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    failed = int(cudart.cudaHostRegister(block.data_ptr(), block.nbytes, 0))
    if failed:
        logging.getLogger(__name__).warning(
            f"{block.nbytes:,} bytes of host memory could not be page-locked (CUDA error {failed}): "
            "snapshots take longer"
        )
        return
    weakref.finalize(block.untyped_storage(), cudart.cudaHostUnregister, block.data_ptr())


def _tensors(tree: Tree, at: Path) -> Iterator[tuple[Path, Tensor]]:
    if isinstance(tree, Tensor):
        yield at, tree
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _tensors(value, (*at, key))
    elif isinstance(tree, list | tuple):
        for index, value in enumerate(tree):
            yield from _tensors(value, (*at, index))


def _filled(tree: Tree, at: Path, copies: Mapping[Path, Tensor]) -> Tree:
    """Copy a tree, with these tensors in the places of its own."""
    if isinstance(tree, Tensor):
        return copies[at]
    if isinstance(tree, Mapping):
        return {key: _filled(value, (*at, key), copies) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_filled(value, (*at, index), copies) for index, value in enumerate(tree)]
    return copy.deepcopy(tree)


def _identity(tensor: Tensor) -> Any:
    """Return a key that is equal for two tensors with the same memory and view."""
    if tensor.numel() == 0:
        return id(tensor)
    storage = tensor.untyped_storage()._cdata
    return (storage, tensor.storage_offset(), tensor.dtype, tuple(tensor.shape), tensor.stride())
