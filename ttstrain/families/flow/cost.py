"""What a net costs to train, counted from its configuration. Imports no torch.

Legend: n frames of a clip, d width, m mel bins, t text width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ttstrain.families.flow.config import CONV_GROUPS, FlowConfig
from ttstrain.families.flow.shapes import CONV_KERNEL, TIME_FREQUENCIES

HALF, SINGLE = 2, 4  # bytes


@dataclass(frozen=True, slots=True)
class ForwardFlops:
    """Floating-point operations of a forward pass, a multiplication with its addition as two."""

    products: float  # with weights
    attention: float  # of frames with frames


def forward_flops(config: FlowConfig, lengths: Sequence[int]) -> ForwardFlops:
    """Count a pass over clips of these lengths, without padding.

    The text's own blocks are left out: they run over its few tokens, and make less than 1 % of a published net.
    """
    d, m, inner = config.dim, config.n_mels, config.heads * config.dim_head
    layers = config.depth * (4 * d * inner + 2 * config.ff_mult * d * d)
    clip = TIME_FREQUENCIES * d + d * d
    if config.backbone == "dit":
        layers += 2 * d * d if config.long_skip_connection else 0
        clip += config.depth * 6 * d * d + 2 * d * d
    elif config.skip_connect_type == "concat":
        layers += config.depth // 2 * 2 * d * d
    ends = 2 * m * d + 2 * CONV_KERNEL * d * d // CONV_GROUPS + d * m
    return ForwardFlops(
        products=2.0 * (sum(lengths) * (layers + ends) + len(lengths) * clip),
        attention=4.0 * config.depth * inner * sum(n * n for n in lengths),
    )


def activation_bytes(config: FlowConfig, *, size: int) -> int:
    """Return the bytes, about, that a frame's forward pass leaves for its backward pass; `size` is that of a number.

    Counted on the CPU, where torch's hooks for saved tensors see them all. No frame is kept for another: attention is
    computed in tiles.
    """
    d, inner = config.dim, config.heads * config.dim_head
    dropped = 1 if config.dropout else 0  # the mask, as wide as what it hides
    hidden = (2 + dropped) * config.ff_mult * d
    heads = (8 if config.qk_norm is not None else 4) * inner
    block = (6 + dropped) * d + heads + hidden
    if config.backbone == "unett":
        block += d
    else:  # what a norm leaves to its modulation, in fp32 whatever the precision
        block += 2 * d * SINGLE // size
    kept = config.depth * block
    if config.checkpoint_activations:
        kept = config.depth * d + block
    return size * (kept + 6 * d + 4 * config.n_mels)
