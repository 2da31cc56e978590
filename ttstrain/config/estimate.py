"""What a run needs in memory and on disk, counted from the model's parameters.

Everything is counted as trained, in fp32. Activations depend on the architecture and are not included.
"""

from __future__ import annotations

from collections.abc import Mapping

from ttstrain.config.recipe import CheckpointConfig, OptimizerKind, Recipe

FP32 = 4  # bytes
MOMENTS: Mapping[OptimizerKind, int] = {  # bytes of optimizer state per parameter
    "adamw": 2 * FP32,
    "adamw8bit": 2,
    "lion": FP32,
    "adan": 4 * FP32,  # three moments and the gradient before
    "muon": FP32,  # the few parameters that are no matrices take twice that
    "schedule_free_adamw": 2 * FP32,
    "sgd": FP32,
}


def memory_bytes(recipe: Recipe, num_parameters: int) -> dict[str, int]:
    """Return bytes per part; `snapshot` is held by the host for a rollback."""
    weights = FP32 * num_parameters
    moments = MOMENTS[recipe.optim.kind] * num_parameters
    ema = weights if recipe.ema.enabled else 0
    snapshot = weights + moments + ema if recipe.guard.snapshot == "memory" else 0
    return {"weights": weights, "gradients": weights, "moments": moments, "ema": ema, "snapshot": snapshot}


def checkpoint_bytes(recipe: Recipe, num_parameters: int) -> int:
    """Return the size of one checkpoint: weights, their average and the optimizer's moments."""
    averages = FP32 if recipe.ema.enabled else 0
    return (FP32 + averages + MOMENTS[recipe.optim.kind]) * num_parameters


def num_checkpoints(checkpoint: CheckpointConfig, *, steps: int, save_every: int) -> int:
    """Count the checkpoints on disk when the run ends: the last ones, the best, and those kept for good."""
    written = -(-steps // save_every)
    rotating = min(checkpoint.keep_last + (checkpoint.best is not None), written)
    kept = steps // checkpoint.keep_every if checkpoint.keep_every else 0
    return min(rotating + kept, max(written, kept))
