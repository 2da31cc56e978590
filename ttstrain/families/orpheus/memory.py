"""Device memory of training, by scheme. Imports no torch.

Legend: h width, v vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ttstrain.contract.model import NF4_BYTES, MemoryScheme, ParameterCounts, PeakMoment
from ttstrain.families.orpheus.config import OrpheusConfig
from ttstrain.families.orpheus.shapes import shapes
from ttstrain.recipe.schema import RunSettings

DEFAULT_RANK = 32  # of the adapters that are compared where the recipe has none
HALF, SINGLE = 2, 4  # bytes
ADAMW_STATE = 2 * SINGLE  # bytes per parameter
ADAMW8BIT_STATE = 2  # bytes per parameter
CHUNK_TOKENS = 1024  # whose logits a GPU holds at a time, where the recipe leaves it open


@dataclass(frozen=True, slots=True)
class Trained:
    """How a model is trained, as far as memory depends on it."""

    autocast: Literal["bf16", "fp16"] | None
    weights: Literal["fp32", "bf16"]
    rank: int  # of adapters, in fp32, on all seven matrices of every layer; 0: the weights themselves are trained
    recomputed: bool  # activation checkpointing
    in_4_bits: bool = False  # the layers' matrices, under adapters

    @classmethod
    def of(cls, config: OrpheusConfig, recipe: RunSettings) -> Trained:
        precision = recipe.train.precision
        return cls(
            autocast=None if precision == "fp32" else "fp16" if precision == "fp16" else "bf16",
            weights=config.param_dtype,
            rank=0 if recipe.lora is None else recipe.lora.rank,
            recomputed=config.checkpoint_activations,
            in_4_bits=recipe.lora is not None and recipe.lora.base == "nf4",
        )

    @property
    def half(self) -> bool:
        """Whether products return half precision."""
        return self.autocast is not None or self.weights == "bf16"

    @property
    def size(self) -> int:
        """Bytes of what a product returns."""
        return HALF if self.half else SINGLE

    @property
    def residual(self) -> int:
        """Bytes of a number between layers, where products are added to the embedding: bf16 and fp16 make fp32."""
        return HALF if self.weights == "bf16" and self.autocast != "fp16" else SINGLE

    @property
    def copies_weights(self) -> bool:
        """Whether autocast copies weights."""
        return self.autocast is not None and self.weights != self.autocast

    @property
    def copies_inputs(self) -> bool:
        """Whether each product has a copy of its own of what it reads, or each adapter, as peft brings it to fp32."""
        if self.rank:
            return self.half
        return self.autocast is not None and self.residual == SINGLE


def memory_schemes(config: OrpheusConfig, recipe: RunSettings, parameters: ParameterCounts) -> Sequence[MemoryScheme]:
    """Return the schemes from the largest down, for the recipe's micro-batch and precision."""
    return sorted(_schemes(config, recipe, parameters), key=lambda scheme: -(scheme.state + scheme.activations))


def _schemes(config: OrpheusConfig, recipe: RunSettings, parameters: ParameterCounts) -> Iterator[MemoryScheme]:
    """Yield weights, gradients and optimizer state, and what a micro-batch takes beside them."""
    weights = sum(math.prod(shape) for _, shape in shapes(config))
    rank = DEFAULT_RANK if recipe.lora is None else recipe.lora.rank
    adapters = parameters.adapters or num_adapters(config, rank)
    trained = adapters * (2 * SINGLE + ADAMW_STATE)
    own = Trained.of(config, recipe)
    layers = config.num_hidden_layers * _layer_parameters(config)
    adapting, others = ("nf4", config.param_dtype) if own.in_4_bits else ("lora", "bf16")
    training = "offload" if recipe.optim.offload else recipe.optim.kind
    chosen = (adapting if recipe.lora is not None else training, config.param_dtype)
    for name, keys, kind, state in (
        (
            "all weights, fp32, AdamW",
            "model.param_dtype=fp32 optim.kind=adamw",
            ("adamw", "fp32"),
            weights * (2 * SINGLE + ADAMW_STATE),
        ),
        (
            "all weights, fp32, 8-bit AdamW",
            "optim.kind=adamw8bit",
            ("adamw8bit", "fp32"),
            weights * (2 * SINGLE + ADAMW8BIT_STATE),
        ),
        ("all weights, bf16, AdamW", "model.param_dtype=bf16", ("adamw", "bf16"), weights * (2 * HALF + ADAMW_STATE)),
        (
            "all weights, bf16, AdamW on the host",
            "model.param_dtype=bf16 optim.offload=true",
            ("offload", "bf16"),
            weights * 2 * HALF,
        ),
        (f"LoRA rank {rank}, fp32 base", f"lora.rank={rank}", ("lora", "fp32"), weights * SINGLE + trained),
        (
            f"LoRA rank {rank}, bf16 base",
            f"lora.rank={rank} model.param_dtype=bf16",
            ("lora", "bf16"),
            weights * HALF + trained,
        ),
        (
            f"LoRA rank {rank}, 4-bit base",
            f"lora.rank={rank} lora.base=nf4" + (" model.param_dtype=bf16" if others == "bf16" else ""),
            ("nf4", others),
            (weights - layers) * (HALF if others == "bf16" else SINGLE) + round(NF4_BYTES * layers) + trained,
        ),
    ):
        way = replace(
            own,
            weights="bf16" if kind[1] == "bf16" else "fp32",
            rank=rank if kind[0] in ("lora", "nf4") else 0,
            in_4_bits=kind[0] == "nf4",
        )
        yield MemoryScheme(name, keys, state, _beside(config, recipe, way), chosen=kind == chosen)
        if kind == chosen and not config.checkpoint_activations:
            yield MemoryScheme(
                "as marked, with activation checkpointing",
                "model.checkpoint_activations=true",
                state,
                _beside(config, recipe, replace(way, recomputed=True)),
                chosen=False,
            )


def _beside(config: OrpheusConfig, recipe: RunSettings, way: Trained) -> int:
    """Return what a full micro-batch takes beside the gradients of an earlier one."""
    moments = peak_moments(config, way, tokens=recipe.data.batch_frames)
    return max(moment.activations for moment in moments)


def peak_moments(config: OrpheusConfig, way: Trained, *, tokens: int) -> list[PeakMoment]:
    """Return the last chunk of the head's loss and, with recomputation, the backward pass of the last layer.

    Every token is counted as learned.
    """
    h, matrices = config.hidden_size, _layer_parameters(config)
    head_is_trained = way.rank == 0
    layers = config.num_hidden_layers * (way.residual * h if way.recomputed else layer_bytes(config, way))
    norm = 2 * SINGLE * h + way.residual * h  # the last one's input and result in fp32, and what the head reads
    gradient = h * (way.residual + SINGLE)  # of what the head reads, and its learned rows
    kept = tokens * (layers + norm)
    copies = _copies(config, way, matrices)
    moments = [PeakMoment(kept + tokens * gradient + copies + _head_bytes(config, way, tokens=tokens))]
    if way.recomputed:
        again = tokens * layer_bytes(config, way) + (HALF * matrices if way.copies_weights and not way.in_4_bits else 0)
        into_head = config.vocab_size * h * way.residual if head_is_trained else 0
        moments.append(PeakMoment(kept + again, gradients=into_head))
    return moments


def layer_bytes(config: OrpheusConfig, way: Trained) -> int:
    """Return the bytes that a token leaves in one layer for its backward pass, on a GPU."""
    h, inner, size = config.hidden_size, config.intermediate_size, way.size
    queries = config.num_attention_heads * config.head_dim
    # A norm computes in fp32 and keeps what enters it; and what its weight multiplies, where that is trained.
    norm = SINGLE * h + (0 if way.rank else way.residual * h)
    # Query, key and value read one vector, gate and up another.
    into = size if not way.rank or way.autocast is not None else SINGLE
    read = (5 if way.copies_inputs else 2) * into * h
    # Keys and values are repeated for all queries. Without half precision documents are attended one by one and joined.
    attention = (4 if way.half else 5) * size * queries + SINGLE * config.num_attention_heads
    steps = (3 * size + into) * inner  # gate, its SiLU and up; their product
    adapters = (7 * way.rank + (queries if way.copies_inputs else 0)) * into if way.rank else 0
    return 2 * norm + read + attention + steps + adapters


def _head_bytes(config: OrpheusConfig, way: Trained, *, tokens: int) -> int:
    """Return the bytes of the head's loss: its copy, the sum of its gradients in fp32, and one chunk's logits."""
    matrix = config.vocab_size * config.hidden_size
    chunk = config.loss.chunk_tokens if config.loss.chunk_tokens != "auto" else CHUNK_TOKENS
    logits = min(tokens, chunk) * config.vocab_size
    into = SINGLE * matrix if way.rank == 0 else 0
    if not way.half:
        return into + 2 * SINGLE * logits
    copy = HALF * matrix if way.copies_weights else 0
    # Either logits, in half and in single precision, and their log probabilities; or the first, the last, the slopes
    # and a chunk's product.
    product = HALF * matrix if way.rank == 0 else 0
    return copy + into + max((HALF + 2 * SINGLE) * logits, (2 * HALF + SINGLE) * logits + product)


def _copies(config: OrpheusConfig, way: Trained, matrices: int) -> int:
    """Return the bytes of copies of weights in half precision at the end of the forward pass.

    Autocast keeps those of trained weights; those of frozen ones stay where a layer is not computed again. Those in 4
    bits are computed for each product.
    """
    adapters = HALF * num_adapters(config, way.rank) if way.rank and way.autocast is not None else 0
    kept = way.copies_weights and not way.in_4_bits and (way.rank == 0 or not way.recomputed)
    return adapters + (HALF * config.num_hidden_layers * matrices if kept else 0)


def _layer_parameters(config: OrpheusConfig) -> int:
    """Count the weights of a layer's seven matrices."""
    return sum(math.prod(shape) for name, shape in shapes(config) if ".layers.0." in name and "_proj." in name)


def num_adapters(config: OrpheusConfig, rank: int) -> int:
    """Return the parameters of adapters on all seven matrices of every layer."""
    adapted = [shape for name, shape in shapes(config) if "_proj." in name]
    return sum(rank * (rows + columns) for rows, columns in adapted)
