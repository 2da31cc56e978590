"""Settings of the GPT and the VAE, alone and together. Imports no torch.

The three tasks share one form: `version`, `features` and `text` describe the inputs of both nets, `gpt` and `vae` the
nets. A task has the sections that it reads and no others.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import Field, model_validator

from ttstrain.contract.model import ModelConfig
from ttstrain.families.gpt_sovits.text.japanese_dictionary import Dictionary
from ttstrain.recipe.names import UserPath
from ttstrain.recipe.schema import Depth, Rows, Section, Seed, Size

Version = Literal["v1", "v2", "v2Pro", "v2ProPlus"]
Language = Literal["zh", "en", "ja", "ko", "yue"]
Positive = Annotated[float, Field(gt=0, le=1000)]
NotNegative = Annotated[float, Field(ge=0, le=1e6)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Item = TypeVar("Item")
Few = Annotated[list[Item], Field(min_length=1, max_length=16)]

SAMPLE_RATE = 32_000  # Hz
HOP_LENGTH = 640  # samples of a spectrogram's frame: 50 a second
FRAMES_PER_S = SAMPLE_RATE / HOP_LENGTH
TOKENS_PER_S = 25.0  # semantic tokens


# ---------------------------------------------------------------- what both nets read


class FeaturesConfig(Section):
    """Models that turn recordings and texts into what the nets read: a Hugging Face folder, or `hf://owner/repo`."""

    hubert: UserPath = "hf://lj1995/GPT-SoVITS/chinese-hubert-base"
    """HuBERT whose last hidden layer becomes semantic tokens."""
    bert: UserPath = "hf://lj1995/GPT-SoVITS/chinese-roberta-wwm-ext-large"
    """BERT for Chinese texts; loaded only if there are any. Other languages get zeros, as upstream."""
    speaker: UserPath = "hf://lj1995/GPT-SoVITS/sv/pretrained_eres2netv2w24s4ep4.ckpt"
    """ERes2NetV2 for speaker embeddings; only v2Pro and v2ProPlus use it."""
    quantizer: UserPath = "hf://lj1995/GPT-SoVITS/gsv-v2final-pretrained/s2G2333k.pth"
    """The published `s2G` of the same version: its `ssl_proj` and `quantizer` make the semantic tokens."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where features are computed."""


class TextConfig(Section):
    """How texts become phonemes."""

    language: Language | Literal["auto"] = "auto"
    """Language of texts whose rows do not name one; `auto` detects it by script."""
    japanese_dictionary: UserPath | None = None
    """Folder of a compiled MeCab dictionary that Japanese is read with, such as upstream's `open_jtalk_dic_utf_8-1.11`;
    without one, that of pyopenjtalk-plus."""
    japanese_words: UserPath | None = None
    """More Japanese words, a `.csv` or `.dic`, such as upstream's `ja_userdic/userdict.csv`."""

    @property
    def dictionary(self) -> Dictionary:
        """What Japanese is read with."""
        return Dictionary(self.japanese_dictionary or "", self.japanese_words or "")


class SamplingConfig(Section):
    """How previews and `ttstrain sample` generate speech: upstream's settings."""

    top_k: Rows = 15
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    temperature: Positive = 1.0
    repetition_penalty: Annotated[float, Field(ge=1, le=100)] = 1.35
    """For every semantic token that was generated or is in the prompt."""
    max_s: Positive = 54.0
    """Maximum length of one generated sentence."""
    noise_scale: NotNegative = 0.5
    """Scale of the noise of the VAE's prior."""
    speed: Positive = 1.0
    seed: Seed = 0


# ---------------------------------------------------------------- the nets


class GptNetConfig(Section):
    """Text2SemanticDecoder, upstream's "s1": names and values of its `s1longer-v2.yaml`."""

    embedding_dim: Size = 512
    hidden_dim: Size = 512
    head: Size = 16
    n_layer: Depth = 24
    vocab_size: Rows = 1025
    """Semantic tokens and the end of speech."""
    phoneme_vocab_size: Rows = 732
    """Rows of the phoneme table; 512 in v1, of which 322 are used."""
    dropout: Probability = 0.1
    """In attention, feed-forward and positions; upstream hard-codes it whatever its YAML says."""
    loss: Literal["sum", "mean"] = "mean"
    """`sum` weights long clips more, as upstream; `mean` is per token."""
    compat: Literal["none", "upstream-2025-07", "upstream-pre-2537"] = "none"
    """How padded texts are masked: `none` hides the padding; the others are what upstream did at these times."""
    dpo: NotNegative = 0.0
    """Weight of the DPO loss, which prefers recorded tokens over rejected samples; upstream's `if_dpo` is 1 beside a
    sum. It needs a second pass."""

    @model_validator(mode="after")
    def _consistent(self) -> GptNetConfig:
        if self.hidden_dim % self.head:
            raise ValueError("`hidden_dim` must be a multiple of `head`")
        if self.embedding_dim != self.hidden_dim:
            raise ValueError("`embedding_dim` and `hidden_dim` must be equal: there is no projection between them")
        return self


class VaeNetConfig(Section):
    """SynthesizerTrn and its discriminator, upstream's "s2": names and values of its `s2.json`.

    Sizes that upstream hard-codes (768 HuBERT channels, 1024 codes, 512 MRTE channels, 704 reference bins) are not
    settings.
    """

    inter_channels: Size = 192
    hidden_channels: Size = 192
    filter_channels: Size = 768
    n_heads: Size = 2
    n_layers: Depth = 6
    kernel_size: Size = 3
    p_dropout: Probability = 0.1
    """In the text encoders; the reference encoder always has 0.1."""
    resblock_kernel_sizes: Few[Size] = Field(default=[3, 7, 11])
    resblock_dilation_sizes: Few[Few[Size]] = Field(default=[[1, 3, 5], [1, 3, 5], [1, 3, 5]])
    upsample_rates: Few[Size] = Field(default=[10, 8, 2, 2, 2])
    upsample_initial_channel: Size = 512
    upsample_kernel_sizes: Few[Size] = Field(default=[16, 16, 8, 2, 2])
    gin_channels: Size = 512
    """Width of the speaker's style; 1024 in v2Pro and v2ProPlus."""
    segment_size: Rows = 20_480
    """Samples of each clip that the decoder generates in a step; a multiple of 640."""
    c_mel: NotNegative = 45.0
    c_kl: NotNegative = 1.0
    freeze_quantizer: bool = True
    """Keep the semantic tokens fixed, so that GPT and VAE agree; upstream's setting."""
    discriminator: bool = True
    """Train with the multi-period discriminator; false trains with mel distance and KL only."""
    discriminator_channels: Size = 1024
    """Maximum channels of a layer of the discriminator; published: 1024."""

    @model_validator(mode="after")
    def _consistent(self) -> VaeNetConfig:
        stages = len(self.upsample_rates)
        if len(self.upsample_kernel_sizes) != stages:
            raise ValueError("`upsample_rates` and `upsample_kernel_sizes` must be equally long")
        if len(self.resblock_kernel_sizes) != len(self.resblock_dilation_sizes):
            raise ValueError("`resblock_kernel_sizes` and `resblock_dilation_sizes` must be equally long")
        rate = 1
        for factor in self.upsample_rates:
            rate *= factor
        if rate != HOP_LENGTH:
            raise ValueError(f"the product of `upsample_rates` is {rate}, but a frame is {HOP_LENGTH} samples")
        if self.segment_size % HOP_LENGTH:
            raise ValueError(f"`segment_size` must be a multiple of {HOP_LENGTH}")
        return self

    @property
    def segment_frames(self) -> int:
        """Frames of the segment that the decoder generates."""
        return self.segment_size // HOP_LENGTH


# ---------------------------------------------------------------- the tasks


class SovitsConfig(ModelConfig):
    """Settings of all three tasks."""

    reads_gpt: ClassVar[bool] = False
    reads_vae: ClassVar[bool] = False

    version: Version = "v2"
    features: FeaturesConfig = FeaturesConfig()
    text: TextConfig = TextConfig()
    sampling: SamplingConfig = SamplingConfig()

    @property
    def is_pro(self) -> bool:
        """Whether the version uses a speaker embedding besides the reference's spectrogram."""
        return self.version in ("v2Pro", "v2ProPlus")


class GptConfig(SovitsConfig):
    """The GPT alone: `gpt.*`."""

    reads_gpt: ClassVar[bool] = True

    gpt: GptNetConfig = GptNetConfig()
    vae: UserPath | None = None
    """File of the VAE for previews; null: no previews."""


class VaeConfig(SovitsConfig):
    """The VAE and its discriminator: `vae.*`, `discriminator.*`."""

    reads_vae: ClassVar[bool] = True

    vae: VaeNetConfig = VaeNetConfig()
    gpt: UserPath | None = None
    """File of the GPT for previews; null: no previews."""


class JointConfig(SovitsConfig):
    """Both at once: `gpt.*`, `vae.*`, `discriminator.*`."""

    reads_gpt: ClassVar[bool] = True
    reads_vae: ClassVar[bool] = True

    gpt: GptNetConfig = GptNetConfig()
    vae: VaeNetConfig = VaeNetConfig()


def is_packed(config: SovitsConfig) -> bool:
    """Tell whether a batch's clips are packed end to end: the GPT's are, unless upstream's padding is reproduced."""
    return isinstance(config, GptConfig) and config.gpt.compat == "none"
