"""Search a state for NaN and infinity before it is saved: a weight that is NaN never trains again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ttstrain.state import Tree
from ttstrain.tensors.sharded import held

_FAST = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@torch.no_grad()
def non_finite(tree: Tree) -> list[str]:
    """Name the leaves of a state tree that hold NaN or infinity, as `part/key/key`.

    Reads every tensor once, of a sharded one the rows of this process, and waits for each device once, unless it finds
    something. Integers are finite.
    """
    leaves: dict[tuple[torch.device, torch.dtype], list[tuple[str, Tensor]]] = {}
    bad = []
    for name, leaf in _walk(tree, ""):
        if isinstance(leaf, float):
            bad += [] if math.isfinite(leaf) else [name]
        elif leaf.is_floating_point() and leaf.numel():
            known = leaf if leaf.dtype in _FAST else leaf.float()
            leaves.setdefault((known.device, known.dtype), []).append((name, known.detach()))
    norms: dict[torch.device, list[Tensor]] = {}
    measured: dict[torch.device, list[tuple[str, Tensor]]] = {}
    for (device, dtype), group in leaves.items():
        half = dtype in (torch.bfloat16, torch.float16)
        found = torch._foreach_norm([leaf for _, leaf in group], 2.0, torch.float32 if half else None)
        norms.setdefault(device, []).append(torch.stack(found).double())
        measured.setdefault(device, []).extend(group)
    for device, parts in norms.items():
        finite = torch.isfinite(torch.cat(parts)).tolist()
        bad += [name for (name, leaf), good in zip(measured[device], finite, strict=True) if not good and _is_bad(leaf)]
    return bad


def _is_bad(tensor: Tensor) -> bool:
    """Check the numbers themselves where a norm is not finite: squares of finite numbers may overflow."""
    lowest, highest = torch.aminmax(tensor)  # NaN is both
    return not bool(torch.isfinite(lowest) & torch.isfinite(highest))


def _walk(tree: Tree, at: str) -> Iterator[tuple[str, Tensor | float]]:
    if isinstance(tree, Tensor | float):
        yield at, held(tree) if isinstance(tree, Tensor) else tree
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _walk(value, f"{at}/{key}" if at else str(key))
    elif isinstance(tree, list | tuple):
        for index, value in enumerate(tree):
            yield from _walk(value, f"{at}/{index}" if at else str(index))


def named(names: list[str], *, shown: int = 3) -> str:
    """Write the first names, and how many more there are."""
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return ", ".join(f"`{name}`" for name in names[:shown]) + more
