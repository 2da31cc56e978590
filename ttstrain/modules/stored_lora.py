"""Checkpoints of adapted modules, read as if they had been merged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from ttstrain.modules.lora import DOWN, MAGNITUDE, UP, is_adapter, merge, plain_name
from ttstrain.tensors.tensorfile import PIECE, StoredTensor


@dataclass(frozen=True, slots=True)
class MergedTensor(StoredTensor):
    """A layer's stored weight with its stored adapter; merged when it is read."""

    base: StoredTensor  # the weight without its adapter
    down: StoredTensor
    up: StoredTensor
    magnitude: StoredTensor | None
    scaling: float

    def read(self) -> Tensor:
        """Read the weight and its adapter and return the merged weight."""
        magnitude = None if self.magnitude is None else self.magnitude.read()
        return merge(self.base.read(), self.down.read(), self.up.read(), scaling=self.scaling, magnitude=magnitude)

    def pieces(self, elements: int = PIECE) -> Iterator[Tensor]:
        """Yield the merged elements as flat tensors, at most `elements` at a time."""
        flat = self.read().reshape(-1)
        for start in range(0, len(flat), elements):
            yield flat[start : start + elements]


def adapters(weights: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Return the adapters of an adapted module's stored state dict, under plain names."""
    return {plain_name(name): stored for name, stored in weights.items() if is_adapter(name)}


def merged(weights: Mapping[str, StoredTensor], *, scaling: float) -> dict[str, StoredTensor]:
    """Return an adapted module's stored state dict under the base's names, its adapters' effect included."""
    plain = {plain_name(name): stored for name, stored in weights.items()}
    found: dict[str, StoredTensor] = {}
    for name, stored in plain.items():
        if is_adapter(name):
            continue
        layer = name.removesuffix(".weight")
        down, up = plain.get(f"{layer}.{DOWN}.weight"), plain.get(f"{layer}.{UP}.weight")
        if name.endswith(".weight") and down is not None and up is not None:
            stored = MergedTensor(  # noqa: PLW2901
                path=stored.path,
                offset=stored.offset,
                dtype=stored.dtype,
                shape=stored.shape,
                strides=stored.strides,
                base=stored,
                down=down,
                up=up,
                magnitude=plain.get(f"{layer}.{MAGNITUDE}.weight"),
                scaling=scaling,
            )
        found[name] = stored
    return found
