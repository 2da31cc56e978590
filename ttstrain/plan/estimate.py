"""What a run needs in memory and on disk, counted from the model's parameters.

EMA weights and optimizer state are counted in fp32. Activations are the family's own estimate, if it has one.
"""

from __future__ import annotations

from collections.abc import Mapping

from ttstrain import registry
from ttstrain.contract.model import ParameterCounts, ResolvedRecipe
from ttstrain.recipe.schema import CheckpointConfig, OptimizerKind

FP32 = 4  # bytes
ACTIVATIONS = "activations"
STATE_BYTES: Mapping[OptimizerKind, int] = {  # bytes of optimizer state per parameter
    "adamw": 2 * FP32,
    "adamw8bit": 2,
    "lion": FP32,
    "adan": 4 * FP32,  # three moments and the previous gradient
    "muon": FP32,  # the few parameters that are no matrices take twice that
    "prodigy": 4 * FP32,  # two moments, the weights at the start and a sum of gradients
    "schedule_free_adamw": 2 * FP32,
    "scaled_adam": 2 * FP32,
    "sgd": FP32,
}


def memory_bytes(recipe: ResolvedRecipe, parameters: ParameterCounts, *, weight_bytes: int = FP32) -> dict[str, int]:
    """Return bytes per part; `snapshot` is held by the host for a rollback, `activations` may be missing.

    Frozen parameters have neither gradients nor optimizer state, and their EMA weight is the weight itself.
    """
    weights, trained = weight_bytes * parameters.total, weight_bytes * parameters.trained
    state = STATE_BYTES[recipe.optim.kind] * parameters.trained
    ema = FP32 * parameters.trained if recipe.ema.enabled else 0
    held = recipe.guard.snapshot == "memory"
    snapshot = checkpoint_bytes(recipe, parameters, weight_bytes=weight_bytes) if held else 0
    activations = registry.planner_of(recipe).activation_bytes(recipe)
    return {
        "weights": weights,
        "gradients": trained,
        "moments": state,
        "ema": ema,
        **({} if activations is None else {ACTIVATIONS: activations}),
        "snapshot": snapshot,
    }


def checkpoint_bytes(recipe: ResolvedRecipe, parameters: ParameterCounts, *, weight_bytes: int = FP32) -> int:
    """Return the bytes of one checkpoint: all weights, all EMA weights, and the optimizer state."""
    complete = (weight_bytes + (FP32 if recipe.ema.enabled else 0)) * parameters.total
    return complete + STATE_BYTES[recipe.optim.kind] * parameters.trained


def num_checkpoints(checkpoint: CheckpointConfig, *, steps: int, save_every: int) -> int:
    """Count the checkpoints on disk when the run ends: the last ones, the best, and those kept for good."""
    written = -(-steps // save_every)
    rotating = min(checkpoint.keep_last + (checkpoint.best is not None), written)
    kept = steps // checkpoint.keep_every if checkpoint.keep_every else 0
    return min(rotating + kept, max(written, kept))
