"""A base may hold more nets than a task trains: `gpt.*`, `vae.*` and `discriminator.*`."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from ttstrain.contract.checkpoint import AdaptedWeights

if TYPE_CHECKING:
    from ttstrain.contract.checkpoint import OpenedCheckpoint


def only(base: OpenedCheckpoint, parts: Collection[str]) -> AdaptedWeights:
    """Return those of a base's tensors whose names begin with one of the parts, such as `gpt.`."""
    kept = {name: tensor for name, tensor in base.weights.items() if name.startswith(tuple(parts))}
    dropped = sorted({name.partition(".")[0] for name in base.weights if name not in kept})
    notes = (f"not loaded from the base, because this task does not have it: {', '.join(dropped)}",) if dropped else ()
    return AdaptedWeights(kept, notes=notes)
