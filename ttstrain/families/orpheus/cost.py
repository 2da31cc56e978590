"""What a Llama costs to train, counted from its configuration. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ttstrain.families.orpheus.config import OrpheusConfig


@dataclass(frozen=True, slots=True)
class ForwardFlops:
    """Floating-point operations of a forward pass, a multiplication with its addition as two."""

    layers: float  # products with the layers' weights
    head: float
    attention: float  # of tokens with tokens, causally


def forward_flops(config: OrpheusConfig, lengths: Sequence[int], *, learned: int) -> ForwardFlops:
    """Count a pass over documents of these lengths, of whose tokens `learned` reach the head."""
    h, inner = config.hidden_size, config.intermediate_size
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    layer = 2 * h * queries + 2 * h * keys + 3 * h * inner
    return ForwardFlops(
        layers=2.0 * sum(lengths) * config.num_hidden_layers * layer,
        head=2.0 * learned * h * config.vocab_size,
        attention=2.0 * config.num_hidden_layers * queries * sum(n * n for n in lengths),
    )
