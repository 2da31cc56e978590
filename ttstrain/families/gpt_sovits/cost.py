"""What GPT and VAE keep on a GPU in a training step, counted from their configuration. Imports no torch.

Legend: b clips, n frames (50 a second), d width, c channels, t samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ttstrain.families.gpt_sovits.config import HOP_LENGTH, GptNetConfig, VaeNetConfig, Version
from ttstrain.families.gpt_sovits.shapes import (
    FLOW_LAYERS,
    FLOWS,
    MRTE_CHANNELS,
    PERIOD_CHANNELS,
    POSTERIOR_LAYERS,
    SCALE_LAYERS,
    SPEC_CHANNELS,
    discriminator_shapes,
    generator_shapes,
    gpt_shapes,
    periods,
)
from ttstrain.recipe.schema import LoraConfig

HALF, SINGLE = 2, 4  # bytes
FRAMES_PER_S = 50
PHONEMES_PER_S = 11  # of speech that is read aloud, signs included
PERIOD_STRIDE, SCALE_STRIDE = 3, 4
HEAD_COPIES = 3  # of logits in fp32: themselves, log probabilities, and one in half precision with what compares them


def gpt_bytes(config: GptNetConfig, lengths: Sequence[int], *, half: bool, lora: LoraConfig | None = None) -> int:
    """Return the bytes that the GPT keeps until its backward pass, for clips of these frames."""
    d, size = config.hidden_dim, _size(half)
    passes = 2 if config.dpo else 1  # a rejected sample beside every clip
    clips = passes * len(lengths)
    tokens = passes * sum(-(-n // 2) for n in lengths)
    longest = passes * -(-max(lengths) // 2)  # a rejected sample may repeat nearly all of its clip
    padded = clips * (longest + round(PHONEMES_PER_S * max(lengths) / FRAMES_PER_S))
    rows = tokens + round(passes * PHONEMES_PER_S * sum(lengths) / FRAMES_PER_S)
    if config.compat != "none":
        rows = padded
    masks = 6 * d if config.dropout else 0  # a byte each: after attention, and around the second product
    # Both norms keep their input in fp32. Of the vectors between, autocast copies what a product reads.
    norms = 2 * SINGLE * d
    read = (2 if lora is None else 1) * d * size
    hidden = 2 * 4 * d * size  # after the ReLU, and dropped
    packed = 3 * d * size  # query, key and value as they are projected
    spread = d * size + SINGLE * config.head  # what is attended, and its normalisers
    if config.compat == "none":
        packed += d * size  # what is attended, without padding again
        spread += 3 * d * size  # query, key and value, padded
    adapters = 0 if lora is None else (3 * lora.rank + d) * size
    layer = rows * (masks + norms + read + hidden + packed + adapters) + padded * spread
    layer += 0 if config.compat == "none" else padded * padded // clips * size  # what hides padding, for each layer
    head = HEAD_COPIES * SINGLE * (tokens + clips) * config.vocab_size
    return config.n_layer * layer + head + rows * 4 * SINGLE * d


def gpt_copies(config: GptNetConfig, *, half: bool) -> int:
    """Return the bytes of the GPT's weights in half precision, but for tables that are only looked up."""
    products = (shape for name, shape in gpt_shapes(config).items() if "embedding" not in name)
    return HALF * sum(map(math.prod, products)) if half else 0


def vae_bytes(config: VaeNetConfig, version: Version, lengths: Sequence[int], *, half: bool) -> int:
    """Return the bytes that lie on the device when the generator's loss is known, for clips of these frames."""
    longest = 2 * -(-max(lengths) // 2)
    frames, clips = len(lengths) * longest, len(lengths)
    phonemes = clips * PHONEMES_PER_S * longest / FRAMES_PER_S
    segments = clips * config.segment_frames
    layers = 2 * (config.n_layers // 2)  # over frames; as many as the text has, one less where that is odd
    channels = _transformer_bytes(config, half=half)
    encoders = frames * layers * channels + round(phonemes * config.n_layers * channels)
    seen = clips * longest**2 * (_seen_bytes(config.n_heads, half=half) * layers + _seen_bytes(2, half=half))
    kept = encoders + seen + frames * _other_bytes(config, half=half) + segments * decoder_bytes(config, half=half)
    if config.discriminator:
        kept += segments * HOP_LENGTH * judged_bytes(config, version, half=half)
    return kept + _vae_copies(config, version, half=half)


def _transformer_bytes(config: VaeNetConfig, *, half: bool) -> int:
    """Return the bytes of a frame or phoneme in one layer of a text encoder, without what is squared."""
    c, inner, size = config.hidden_channels, config.filter_channels, _size(half)
    norms = 2 * SINGLE * c  # their inputs, in fp32
    read = (3 if half else 1) * c * size + c * size  # by query, key and value, each its copy; by the first convolution
    attention = 5 * c * size  # query, key, value, what is heard, and it in order
    hidden = 2 * inner * size + inner  # after the ReLU; dropped and padded; a mask
    return norms + read + attention + hidden + 2 * c


def _seen_bytes(heads: int, *, half: bool) -> int:
    """Return the bytes of one frame that sees one other: the softmax in fp32, dropped, with its mask."""
    return heads * (SINGLE + _size(half) + 1)


def _other_bytes(config: VaeNetConfig, *, half: bool) -> int:
    """Return the bytes of a frame in posterior encoder and flow, in the reference, and of its spectrogram."""
    c, size = config.hidden_channels, _size(half)
    wavenets = (POSTERIOR_LAYERS + len(FLOWS) * FLOW_LAYERS) * 4 * c * size  # input, both gates, their product
    latents = 12 * config.inter_channels * SINGLE
    reference = 20 * 128 * size
    text = 6 * MRTE_CHANNELS * size
    return wavenets + latents + reference + text + SPEC_CHANNELS * (SINGLE + (size if half else 0))


def decoder_bytes(config: VaeNetConfig, *, half: bool) -> int:
    """Return the bytes of a frame of the generated piece in the decoder."""
    size, width, rate = _size(half), config.upsample_initial_channel, 1
    pairs = sum(map(len, config.resblock_dilation_sizes))
    # Each pair of convolutions keeps its first result, two rectified ones, and its sum unless it is a block's last.
    in_pairs = 4 * pairs - len(config.resblock_dilation_sizes)
    kept = 0
    for factor in config.upsample_rates:
        kept += width * rate  # rectified, before it is upsampled
        width, rate = width // 2, rate * factor
        kept += (in_pairs + 2) * width * rate  # with what all blocks read, and their mean
    return size * (kept + width * rate)


def judged_bytes(config: VaeNetConfig, version: Version, *, half: bool) -> int:
    """Return the bytes of a sample in the discriminator: of real sound, of generated sound, and of their distance."""
    most = config.discriminator_channels
    maps, length = 0.0, 1.0
    for layer, (channels, _) in enumerate(SCALE_LAYERS):
        length /= SCALE_STRIDE if 0 < layer < len(SCALE_LAYERS) - 1 else 1
        maps += min(channels, most) * length
    folded, length = 0.0, 1.0
    for layer, channels in enumerate(PERIOD_CHANNELS):
        length /= 1 if layer == len(PERIOD_CHANNELS) - 1 else PERIOD_STRIDE
        folded += min(channels, most) * length
    # Features of real sound, those of generated sound before and after they are rectified, and the difference in fp32.
    return round((maps + len(periods(version)) * folded) * (3 * _size(half) + SINGLE))


def _vae_copies(config: VaeNetConfig, version: Version, *, half: bool) -> int:
    """Return the bytes of weights that are computed for the step: from weight norm in fp32, and in half precision.

    Those of the discriminator are held in fp32 whatever the precision.
    """
    judging = sum(map(math.prod, discriminator_shapes(config, version).values())) if config.discriminator else 0
    own = {name: math.prod(shape) for name, shape in generator_shapes(config, version).items()}
    if not half:
        return SINGLE * (judging + sum(size for name, size in own.items() if name.endswith("weight_v")))
    return (SINGLE + HALF) * judging + HALF * sum(size for name, size in own.items() if "embedding" not in name)


def _size(half: bool) -> int:
    return HALF if half else SINGLE
