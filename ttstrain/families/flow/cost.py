"""What a net costs to train, counted from its configuration. Imports no torch.

Legend: n frames of a clip, d width, m mel bins, t text width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ttstrain.families.flow.config import CONV_GROUPS, FlowConfig
from ttstrain.families.flow.shapes import CONV_KERNEL, TIME_FREQUENCIES
from ttstrain.recipe.schema import LoraConfig

HALF, SINGLE = 2, 4  # bytes
TEXT_PER_FRAME = 0.15  # characters: 14 a second, as English is read aloud, of 94 frames
TEXT_HALF, TEXT_SINGLE = 32, 44  # bytes that a ConvNeXt block of the text keeps for each of its channels


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


def kept_bytes(config: FlowConfig, *, half: bool, lora: LoraConfig | None = None) -> int:
    """Return the bytes that a frame's forward pass leaves for its backward pass on a GPU, in half precision or fp32.

    No frame is kept for another: attention is computed in tiles. With adapters, those on all matrices of every block
    are counted.
    """
    blocks = config.depth * block_bytes(config, half=half, lora=lora)
    if config.checkpoint_activations:
        blocks = config.depth * config.dim * _size(half)
    return blocks + _ends(config, half=half)


def block_bytes(config: FlowConfig, *, half: bool, lora: LoraConfig | None = None) -> int:
    """Return the bytes that a frame leaves in one block."""
    d, size = config.dim, _size(half)
    inner, hidden = config.heads * config.dim_head, config.ff_mult * d
    # Query, key and value come from one modulated vector. Under autocast each product has a copy of its own.
    read = (3 if half else 1) * d * size + d * size  # by attention, by feed-forward
    attention = 4 * inner * size + SINGLE * config.heads  # value, turned query and key, result; its normalisers
    attention += 0 if config.qk_norm is None else 2 * inner * size  # what is normalised
    steps = 2 * hidden * size  # before the GELU, and after it and dropout
    masks = d + hidden if config.dropout else 0  # a byte each
    adapters = 0
    if lora is not None:
        adapters = 6 * lora.rank * size + (inner * size if half else 0)  # the output's input is copied once more
    kept = read + attention + steps + masks + adapters + _norms(config, half=half, trained=lora is None)
    if config.backbone == "dit" and lora is None:
        kept += 2 * d * size  # what attention and feed-forward give to their gates
    return kept


def _norms(config: FlowConfig, *, half: bool, trained: bool) -> int:
    """Return the bytes of both norms of a block, which are computed in fp32, and of what enters them."""
    d, size = config.dim, _size(half)
    if config.backbone == "dit":
        return 2 * SINGLE * d * (2 if trained else 1)  # the input in fp32 and, for the modulation, the result
    joined = 2 * d * size if trained and config.skip_connect_type == "concat" else 0  # in every second block
    return 2 * d * size + (2 * SINGLE * d if trained else 0) + joined // 2


def _ends(config: FlowConfig, *, half: bool) -> int:
    """Return the bytes of a frame before the first block and after the last."""
    d, m, t, size = config.dim, config.n_mels, config.text_dim, _size(half)
    share = TEXT_PER_FRAME if config.text_mask_padding and config.conv_layers else 1.0
    text = t * size + config.conv_layers * t * (TEXT_HALF if half else TEXT_SINGLE)
    # Noise, noised and shown mel and velocity in fp32; then the joined vector, and the position convolutions.
    return 4 * SINGLE * m + (2 * m + 6 * d) * size + round(share * text)


def weight_copies(config: FlowConfig, *, num_parameters: int, half: bool, lora: LoraConfig | None = None) -> int:
    """Return the bytes of the weights' copies in half precision, which autocast keeps until the backward pass.

    Of frozen weights only those are kept which a gradient passes through; those in 4 bits are computed for each
    product.
    """
    if not half or (lora is not None and lora.base == "nf4"):
        return 0
    return HALF * (num_parameters if lora is None else config.depth * block_parameters(config))


def block_parameters(config: FlowConfig) -> int:
    """Count the weights of a block's matrices, without those that modulate it."""
    d, inner = config.dim, config.heads * config.dim_head
    joins = d * d if config.backbone == "unett" and config.skip_connect_type == "concat" else 0
    return 4 * d * inner + 2 * config.ff_mult * d * d + joins


def _size(half: bool) -> int:
    return HALF if half else SINGLE
