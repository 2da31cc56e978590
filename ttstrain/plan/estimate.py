"""What a run needs in memory and on disk, counted from the model's parameters.

EMA weights and optimizer state are counted in fp32. Activations are the family's own estimate, if it has one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ttstrain import registry
from ttstrain.contract.model import NF4_BYTES, ParameterCounts, PeakMoment, ResolvedRecipe
from ttstrain.data import sampler
from ttstrain.recipe.schema import CheckpointConfig, OptimizerKind

FP32 = 4  # bytes
ACTIVATIONS = "activations"
OFFLOADED = "offloaded"
LOOKED_AT = 10_000  # clips whose micro-batches are made
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


def memory_bytes(
    recipe: ResolvedRecipe,
    parameters: ParameterCounts,
    *,
    lengths: Sequence[int],
    accumulate: int,
    weight_bytes: int = FP32,
) -> dict[str, int]:
    """Return bytes per part, whose sum is the peak of a step, but for what the host holds: `snapshot`, for a rollback,
    and `offloaded`, optimizer state.

    `lengths` are those of the training clips. `activations` is what a step takes beyond the other parts at its peak: in
    a step of one micro-batch they give way to the gradients. It is missing where the family counts none.
    Frozen parameters have neither gradients nor optimizer state, and their EMA weight is the weight itself.
    """
    weights = weight_bytes * (parameters.total - parameters.in_4_bits) + round(NF4_BYTES * parameters.in_4_bits)
    trained = weight_bytes * parameters.trained
    state = STATE_BYTES[recipe.optim.kind] * parameters.trained
    ema = FP32 * parameters.averaged if recipe.ema.enabled else 0
    held = recipe.guard.snapshot == "memory"
    snapshot = checkpoint_bytes(recipe, parameters, weight_bytes=weight_bytes) if held else 0
    moments = _peak_moments(recipe, lengths)
    peak = max(
        (one.activations + (trained if accumulate > 1 else min(one.gradients, trained)) for one in moments), default=0
    )
    return {
        "weights": weights,
        "gradients": trained,
        "moments": 0 if recipe.optim.offload else state,
        "ema": ema,
        **({ACTIVATIONS: max(0, peak - trained)} if moments else {}),
        "snapshot": snapshot,
        **({OFFLOADED: state} if recipe.optim.offload else {}),
    }


def _peak_moments(recipe: ResolvedRecipe, lengths: Sequence[int]) -> list[PeakMoment]:
    """Return the moments of the micro-batches that may take the most."""
    planner, data = registry.planner_of(recipe), recipe.data
    ordered = sorted(lengths, reverse=True)
    some = ordered[:: max(1, len(ordered) // LOOKED_AT)]  # neighbours are as good as equal
    batches = sampler.heaviest(some, budget=data.batch_frames, max_clips=data.max_clips, packed=planner.packed)
    return [one for batch in batches for one in planner.peak_moments(recipe, [some[i] for i in batch])]


def checkpoint_bytes(recipe: ResolvedRecipe, parameters: ParameterCounts, *, weight_bytes: int = FP32) -> int:
    """Return the bytes of one checkpoint: weights, EMA weights and optimizer state, of adapters only what is trained.

    The same is held for a rollback. Adapters are in fp32 over weights of any type.
    """
    state = STATE_BYTES[recipe.optim.kind] * parameters.trained
    if recipe.lora is not None:
        trained = FP32 * parameters.adapters + weight_bytes * (parameters.trained - parameters.adapters)
        return trained + (FP32 * parameters.averaged if recipe.ema.enabled else 0) + state
    return weight_bytes * parameters.total + (FP32 * parameters.exported if recipe.ema.enabled else 0) + state


def num_checkpoints(checkpoint: CheckpointConfig, *, steps: int, save_every: int) -> int:
    """Count the checkpoints on disk when the run ends: the last ones, the best, and those kept for good."""
    written = -(-steps // save_every)
    rotating = min(checkpoint.keep_last + (checkpoint.best is not None), written)
    kept = steps // checkpoint.keep_every if checkpoint.keep_every else 0
    return min(rotating + kept, max(written, kept))
