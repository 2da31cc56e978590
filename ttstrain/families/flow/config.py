"""Settings of a flow-matching model: what a recipe's `model:` section may hold. Imports no torch.

The defaults are F5TTS_v1_Base; `configs/models/` states the other published nets in full.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from ttstrain.config.recipe import Count, Section
from ttstrain.families import ModelConfig
from ttstrain.families.flow.vocab import load_vocab

if TYPE_CHECKING:
    from ttstrain.data.manifest import Clip

Probability = Annotated[float, Field(ge=0, le=1)]

SAMPLE_RATE = 24_000  # Hz; one for all published nets, as are hop, window and FFT
HOP_LENGTH = 256
CONV_KERNEL = 31  # of the convolutional position embedding
CONV_GROUPS = 16
TIME_FREQUENCIES = 256


class CfmConfig(Section):
    """What is hidden from the net in training."""

    audio_drop_prob: Probability = 0.3
    """Chance to hide the whole recording from the conditioning."""
    cond_drop_prob: Probability = 0.2
    """Chance to hide recording and text, which classifier-free guidance needs."""
    frac_lengths: tuple[Probability, Probability] = (0.7, 1.0)
    """Shortest and longest share of a clip that is to be filled in."""
    span: Literal["upstream", "inclusive"] = "upstream"
    """Where the hidden span may lie. `upstream` never reaches a clip's last frame; `inclusive` may."""
    drop: Literal["batch", "sample"] = "batch"
    """Hide for a whole micro-batch at once, as upstream, or choose for each clip."""

    @model_validator(mode="after")
    def _ordered(self) -> CfmConfig:
        low, high = self.frac_lengths
        if low > high:
            raise ValueError("`frac_lengths` goes from the shortest to the longest share")
        return self


class SamplingConfig(Section):
    """How samples are spoken while training."""

    steps: Count = 16
    """Steps of the ODE solver; `midpoint` evaluates the net twice in each."""
    cfg_strength: Annotated[float, Field(ge=0)] = 2.0
    """Strength of classifier-free guidance; 0 needs half the time."""
    sway: Annotated[float, Field(ge=-1, le=1.75)] | None = -1.0
    """Coefficient of sway sampling, which spends more steps near the noise; null spreads them evenly."""
    method: Literal["euler", "midpoint"] = "euler"
    epss: bool = True
    """Use the published empirically pruned grids where `steps` is 5, 6, 7, 10, 12 or 16."""
    speed: Annotated[float, Field(gt=0)] = 1.0
    """Speaking rate relative to the reference."""
    seconds_per_byte: Annotated[float, Field(gt=0)] = 0.07
    """Length of speech per UTF-8 byte of text where no reference tells it; 0.07 suits English read aloud."""


class FlowConfig(ModelConfig):
    """One net, its text front end, its mel, and how it is trained and sampled."""

    backbone: Literal["dit", "unett"] = "dit"
    """`dit` is F5-TTS, `unett` is E2-TTS."""
    dim: Count = 1024
    depth: Count = 22
    heads: Count = 16
    dim_head: Count = 64
    ff_mult: Count = 2
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    text_dim: Count = 512
    """Width of the text embedding; E2 uses `n_mels`."""
    conv_layers: Annotated[int, Field(ge=0)] = 4
    """ConvNeXt blocks over the text; E2 has none."""
    text_mask_padding: bool = True
    """Keep the filler after the text at zero: true for v1 nets, false for v0 and E2."""
    pe_attn_head: Count | None = None
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
    n_mels: Count = 100

    tokenizer: Literal["pinyin", "char", "custom"] = "pinyin"
    """`pinyin` as upstream's inference reads every text; `custom` the same with any vocab; `char` splits characters."""
    vocab: str = "package:emilia"
    """File with one token per line, or `package:emilia` for the vocab of the published nets."""

    cfm: CfmConfig = CfmConfig()
    sampling: SamplingConfig = SamplingConfig()

    @model_validator(mode="after")
    def _consistent(self) -> FlowConfig:
        if self.dim % CONV_GROUPS:
            raise ValueError(f"`dim` must be a multiple of {CONV_GROUPS}, the groups of the position convolution")
        if self.dim_head % 2:
            raise ValueError("`dim_head` must be even, rotary positions turn pairs")
        if self.pe_attn_head is not None and self.pe_attn_head > self.heads:
            raise ValueError("`pe_attn_head` exceeds `heads`")
        if self.conv_layers and self.text_dim % 2:
            raise ValueError("`text_dim` must be even, its positions are pairs of sine and cosine")
        if self.backbone == "dit":
            if self.skip_connect_type != "concat":
                raise ValueError("`skip_connect_type` is read by `backbone: unett` only")
            if self.text_embedding_average_upsampling and not self.text_mask_padding:
                raise ValueError("`text_embedding_average_upsampling` needs `text_mask_padding: true`")
        else:
            if self.depth % 2:
                raise ValueError("`depth` of a unett must be even, its halves are joined in pairs")
            if self.long_skip_connection:
                raise ValueError("`long_skip_connection` is read by `backbone: dit` only")
            if self.text_embedding_average_upsampling:
                raise ValueError("`text_embedding_average_upsampling` is read by `backbone: dit` only")
        return self

    @property
    def frames_per_s(self) -> float:
        return SAMPLE_RATE / HOP_LENGTH

    def length(self, clip: Clip) -> int:
        """Count the mel's frames from the samples that are kept of the clip, without decoding."""
        return clip.samples_at(SAMPLE_RATE) // HOP_LENGTH + (1 if self.mel == "vocos" else 0)

    def num_tokens(self) -> int:
        """Return the size of the vocab; reads its file."""
        return len(load_vocab(self.vocab, space_first=self.tokenizer != "custom").tokens)

    def num_parameters(self) -> int:
        """Return the number of trainable parameters of the whole net."""
        d, t, m = self.dim, self.text_dim, self.n_mels
        inner, hidden = self.heads * self.dim_head, self.ff_mult * d
        time = TIME_FREQUENCIES * d + d + d * d + d
        text_block = 8 * t + 2 * t + (2 * t * t + 2 * t) + 4 * t + (2 * t * t + t)
        text = (self.num_tokens() + 1) * t + self.conv_layers * text_block
        position = d * (d // CONV_GROUPS) * CONV_KERNEL + d
        inputs = (2 * m + t) * d + d + 2 * position
        attention = 3 * (d * inner + inner) + inner * d + d
        if self.qk_norm is not None:
            attention += 2 * self.dim_head
        feed_forward = d * hidden + hidden + hidden * d + d
        output = d * m + m
        if self.backbone == "dit":
            blocks = self.depth * (6 * d * d + 6 * d + attention + feed_forward)
            output += 2 * d * d + 2 * d
            if self.long_skip_connection:
                output += 2 * d * d
        else:
            blocks = self.depth * (2 * d + attention + feed_forward)
            if self.skip_connect_type == "concat":
                blocks += self.depth // 2 * 2 * d * d
            output += d
        return time + text + inputs + blocks + output
