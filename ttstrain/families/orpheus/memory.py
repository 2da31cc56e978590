"""Device memory of training, by scheme. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from ttstrain.contract.model import MemoryScheme, ParameterCounts
from ttstrain.families.orpheus.config import OrpheusConfig
from ttstrain.families.orpheus.shapes import shapes
from ttstrain.recipe.schema import RunSettings

DEFAULT_RANK = 32  # of the adapters that are compared where the recipe has none
HALF, SINGLE = 2, 4  # bytes
ADAMW_STATE = 2 * SINGLE  # bytes per parameter
ADAMW8BIT_STATE = 2  # bytes per parameter


def memory_schemes(config: OrpheusConfig, recipe: RunSettings, parameters: ParameterCounts) -> Sequence[MemoryScheme]:
    """Return the schemes from the largest down, for the recipe's micro-batch and precision."""
    return sorted(_schemes(config, recipe, parameters), key=lambda scheme: -(scheme.state + scheme.activations))


def _schemes(config: OrpheusConfig, recipe: RunSettings, parameters: ParameterCounts) -> Iterator[MemoryScheme]:
    """Yield weights, gradients, optimizer state and, of fp32 weights under autocast, their copy in half precision."""
    weights = sum(math.prod(shape) for _, shape in shapes(config))
    copy = 0 if recipe.train.precision == "fp32" else HALF
    rank = DEFAULT_RANK if recipe.lora is None else recipe.lora.rank
    adapters = parameters.adapters or num_adapters(config, rank)
    trained = adapters * (2 * SINGLE + ADAMW_STATE)
    batch = recipe.data.batch_frames
    kept = batch * activations(config, recipe, recomputed=config.checkpoint_activations)
    own = ("lora" if recipe.lora is not None else recipe.optim.kind, config.param_dtype)
    for name, keys, kind, state in (
        (
            "all weights, fp32, AdamW",
            "model.param_dtype=fp32 optim.kind=adamw",
            ("adamw", "fp32"),
            weights * (2 * SINGLE + ADAMW_STATE + copy),
        ),
        (
            "all weights, fp32, 8-bit AdamW",
            "optim.kind=adamw8bit",
            ("adamw8bit", "fp32"),
            weights * (2 * SINGLE + ADAMW8BIT_STATE + copy),
        ),
        ("all weights, bf16, AdamW", "model.param_dtype=bf16", ("adamw", "bf16"), weights * (2 * HALF + ADAMW_STATE)),
        (f"LoRA rank {rank}, fp32 base", f"lora.rank={rank}", ("lora", "fp32"), weights * (SINGLE + copy) + trained),
        (
            f"LoRA rank {rank}, bf16 base",
            f"lora.rank={rank} model.param_dtype=bf16",
            ("lora", "bf16"),
            weights * HALF + trained,
        ),
    ):
        yield MemoryScheme(name, keys, state, kept, chosen=kind == own)
        if kind == own and not config.checkpoint_activations:
            less = batch * activations(config, recipe, recomputed=True)
            yield MemoryScheme(
                "as marked, with activation checkpointing",
                "model.checkpoint_activations=true",
                state,
                less,
                chosen=False,
            )


def activations(config: OrpheusConfig, recipe: RunSettings, *, recomputed: bool) -> int:
    """Return the bytes that a token's forward pass leaves for its backward pass, about: 3 MiB in the 3B."""
    h, inner = config.hidden_size, config.intermediate_size
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    size = SINGLE if recipe.train.precision == "fp32" else HALF
    layer = size * (6 * h + 4 * inner + queries + 2 * keys)
    return config.num_hidden_layers * SINGLE * h + layer if recomputed else config.num_hidden_layers * layer


def num_adapters(config: OrpheusConfig, rank: int) -> int:
    """Return the parameters of adapters on all seven matrices of every layer."""
    adapted = [shape for name, shape in shapes(config) if "_proj." in name]
    return sum(rank * (rows + columns) for rows, columns in adapted)
