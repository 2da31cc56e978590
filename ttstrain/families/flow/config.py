"""Settings of a flow-matching model: what a recipe's `model:` section may hold. Imports no torch.

The defaults are F5TTS_v1_Base; `configs/models/` states the other published nets in full.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ttstrain.contract.model import ModelConfig
from ttstrain.recipe.schema import Depth, Section, Seed, Size, Step

Probability = Annotated[float, Field(ge=0, le=1)]

SAMPLE_RATE = 24_000  # Hz; one for all published nets, as are hop, window and FFT
HOP_LENGTH = 256
CONV_GROUPS = 16  # of the convolutional position embedding


class CfmConfig(Section):
    """What is masked in training."""

    audio_drop_prob: Probability = 0.3
    """Chance to hide the whole recording from the conditioning."""
    cond_drop_prob: Probability = 0.2
    """Chance to hide recording and text, which classifier-free guidance needs."""
    frac_lengths: tuple[Probability, Probability] = (0.7, 1.0)
    """Shortest and longest share of a clip that is masked."""
    span: Literal["upstream", "inclusive"] = "upstream"
    """Where the masked span may be. `upstream` never includes a clip's last frame; `inclusive` may."""
    drop: Literal["batch", "sample"] = "batch"
    """Hide for a whole micro-batch at once, as upstream, or choose for each clip."""

    @model_validator(mode="after")
    def _ordered(self) -> CfmConfig:
        low, high = self.frac_lengths
        if low > high:
            raise ValueError("`frac_lengths` must be [shortest, longest]")
        if high == 0:
            raise ValueError("`frac_lengths` ends at 0: no frame would be masked, so the loss would be empty")
        return self


class SamplingConfig(Section):
    """How speech is generated, in previews and by `ttstrain sample`."""

    steps: Annotated[int, Field(ge=1, le=10_000)] = 16
    """Steps of the ODE solver; `midpoint` evaluates the net twice in each."""
    cfg_strength: Annotated[float, Field(ge=0, le=1000)] = 2.0
    """Strength of classifier-free guidance; 0 turns it off and takes half the time."""
    sway: Annotated[float, Field(ge=-1, le=1.75)] | None = -1.0
    """Coefficient of sway sampling, which spends more steps near the noise; null spreads them evenly."""
    method: Literal["euler", "midpoint"] = "euler"
    epss: bool = True
    """Use the published empirically pruned grids where `steps` is 5, 6, 7, 10, 12 or 16."""
    speed: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Speaking rate relative to the reference."""
    seconds_per_byte: Annotated[float, Field(gt=0, le=10)] = 0.07
    """Length of speech per UTF-8 byte of text where no reference tells it; 0.07 suits English read aloud."""
    seed: Seed = 0
    """Seed of the initial noise; other seeds give other prosody."""
    vocoder: str | None = None
    """Vocos or BigVGAN, as `mel` says: folder, file or hf://owner/repo; null: Griffin-Lim (lower quality)."""


class FlowConfig(ModelConfig):
    """One net, its text front end, its mel, and how it is trained and sampled."""

    backbone: Literal["dit", "unett"] = "dit"
    """`dit` is F5-TTS, `unett` is E2-TTS."""
    dim: Size = 1024
    depth: Depth = 22
    heads: Size = 16
    dim_head: Size = 64
    ff_mult: Annotated[int, Field(ge=1, le=64)] = 2
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    text_dim: Size = 512
    """Width of the text embedding; E2 uses `n_mels`."""
    conv_layers: Annotated[int, Field(ge=0, le=1024)] = 4
    """ConvNeXt blocks over the text; E2 has none."""
    text_mask_padding: bool = True
    """Keep the filler after the text at zero: true for v1 nets, false for v0 and E2."""
    pe_attn_head: Size | None = None
    """Heads that get rotary positions: null is all (v1), 1 is the first only (v0 and E2)."""
    qk_norm: Literal["rms_norm"] | None = None
    attn_mask_enabled: bool = False
    """Hide padded frames from attention; the published nets were trained without."""
    long_skip_connection: bool = False
    """Feed the input of the first block to the output, `dit` only."""
    text_embedding_average_upsampling: bool = False
    """Spread the text evenly over the frames, `dit` with `text_mask_padding` only."""
    skip_connect_type: Literal["concat", "add", "none"] = "concat"
    """How the halves of a `unett` are joined."""
    checkpoint_activations: bool = False
    """Compute each block again in the backward pass, to save memory."""

    mel: Literal["vocos", "bigvgan"] = "vocos"
    """Which vocoder's mel; the two are not interchangeable."""
    n_mels: Size = 100

    tokenizer: Literal["pinyin", "char", "custom"] = "pinyin"
    """`pinyin`: as upstream's inference; `custom`: the same with any vocab; `char`: plain characters."""
    vocab: str = "package:emilia"
    """File with one token per line, `package:emilia` (the published nets) or `package:english` (130 characters)."""
    base_vocab: str | None = None
    """Vocab of the base; null: the one beside or in the base, or the published one if its size fits."""
    first_new_rows: Step = 0
    """Steps at the start in which only the embeddings of tokens missing from the base's vocab are trained."""
    max_unknown: Probability = 0.005
    """Refuse to train when a larger share of the data's tokens is not in `vocab` (they become spaces)."""

    cfm: CfmConfig = CfmConfig()
    sampling: SamplingConfig = SamplingConfig()

    @model_validator(mode="after")
    def _consistent(self) -> FlowConfig:
        if self.dim % CONV_GROUPS:
            raise ValueError(f"`dim` must be a multiple of {CONV_GROUPS}, the groups of the position convolution")
        if self.dim_head % 2:
            raise ValueError("`dim_head` must be even: rotary positions rotate pairs")
        if self.pe_attn_head is not None and self.pe_attn_head > self.heads:
            raise ValueError("`pe_attn_head` exceeds `heads`")
        if self.conv_layers and self.text_dim % 2:
            raise ValueError("`text_dim` must be even, its positions are pairs of sine and cosine")
        if self.backbone == "dit":
            if self.skip_connect_type != "concat":
                raise ValueError("`skip_connect_type` is for `backbone: unett` only")
            if self.text_embedding_average_upsampling and not self.text_mask_padding:
                raise ValueError("`text_embedding_average_upsampling` needs `text_mask_padding: true`")
        else:
            if self.depth % 2:
                raise ValueError("`depth` of a unett must be even, its halves are joined in pairs")
            if self.long_skip_connection:
                raise ValueError("`long_skip_connection` is for `backbone: dit` only")
            if self.text_embedding_average_upsampling:
                raise ValueError("`text_embedding_average_upsampling` is for `backbone: dit` only")
        return self

    @property
    def frames_per_s(self) -> float:
        return SAMPLE_RATE / HOP_LENGTH
