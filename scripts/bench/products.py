"""The heavy products of training steps: which there were, and how long they take by themselves.

Matrix products, convolutions and attention are recorded with their shapes while steps run, and then repeated alone, on
numbers drawn at random. Their time is what a step cannot do without, as long as torch's kernels compute it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

KINDS = {
    "aten::mm": "matrix products",
    "aten::addmm": "matrix products",
    "aten::addmm_": "matrix products",
    "aten::bmm": "matrix products",
    "aten::baddbmm": "matrix products",
    "aten::convolution": "convolutions",
    "aten::convolution_backward": "convolutions",
    "aten::_scaled_dot_product_flash_attention_for_cpu": "attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": "attention",
}
REPEATS = 3  # of each product by itself, after one that warms up


@dataclass(frozen=True, slots=True)
class Layout:
    """How a tensor lies in memory."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, value: Tensor) -> Layout:
        return cls(tuple(value.shape), value.stride(), value.dtype)

    def fill(self) -> Tensor:
        """Make a tensor that lies so, of random numbers; like a window over a signal, it may hold a number twice."""
        reached = 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        numbers = torch.empty(max(reached, 1), dtype=self.dtype)
        numbers = numbers.uniform_(-1, 1) if self.dtype.is_floating_point else numbers.zero_()
        return numbers.as_strided(self.shape, self.strides)


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the heavy products that are computed while it is on, by operation, layouts and arguments."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()
        self.calls: dict[str, tuple[Any, Any, Any]] = {}  # key -> operation, arguments with layouts for tensors

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._schema.name in KINDS:
            layouts = tree_map(lambda one: Layout.of(one) if isinstance(one, Tensor) else one, (args, kwargs))
            key = f"{func} {layouts}"
            self.counts[key] += 1
            self.calls[key] = (func, *layouts)
        return func(*args, **kwargs)

    def seconds(self) -> dict[str, float]:
        """Repeat each product by itself; return how long all that were counted take, by kind."""
        found: Counter[str] = Counter()
        for key, count in self.counts.items():
            func, args, kwargs = self.calls[key]
            found[KINDS[func._schema.name]] += count * _timed(func, *_filled((args, kwargs)))
        return dict(found)


def _filled(layouts: Any) -> Any:
    return tree_map(lambda one: one.fill() if isinstance(one, Layout) else one, layouts)


@torch.no_grad()
def _timed(function: Callable[..., Any], args: Any, kwargs: Any) -> float:
    took = []
    for _ in range(REPEATS + 1):
        started = perf_counter()
        function(*args, **kwargs)
        took.append(perf_counter() - started)
    return median(took[1:])
