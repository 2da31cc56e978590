"""Settings of the language model over SNAC codes: what a recipe's `model:` section may hold. Imports no torch.

The defaults are Orpheus 3B: Llama 3.2 3B with 28,684 more tokens. Names are those of its `config.json`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from ttstrain.contract.model import ModelConfig
from ttstrain.families.orpheus.data_config import RowsConfig
from ttstrain.families.orpheus.ids import PUBLISHED, TokenIds
from ttstrain.recipe.schema import Depth, Rows, Section, Seed, Size

if TYPE_CHECKING:
    pass

PREFIX = "net."  # of the task's keys before those of a Hugging Face folder
LORA_TARGETS = ("*.self_attn.[qkvo]_proj", "*.mlp.gate_proj", "*.mlp.up_proj", "*.mlp.down_proj")

Positive = Annotated[float, Field(gt=0, le=1e12)]


class RopeScaling(Section):
    """Llama 3's stretch of the slow rotary frequencies."""

    factor: Positive = 32.0
    low_freq_factor: Positive = 1.0
    high_freq_factor: Positive = 4.0
    original_max_position_embeddings: Rows = 8192


class LossConfig(Section):
    """Loss terms besides the plain cross entropy."""

    z_loss: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """Weight of the z-loss (squared log-normaliser), which keeps logits from drifting; 1e-4 is usual."""
    slot_loss: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of an audio token's loss that is taken over its slot's 4096 codes alone; the reported losses stay those
    over the whole vocabulary."""
    chunk_tokens: Rows | Literal["auto"] = "auto"
    """Tokens whose logits are held at a time; `auto` is 1024 on a GPU, and what fits 80 MB on the CPU."""


class SamplingConfig(Section):
    """How samples are generated: the published settings."""

    temperature: Annotated[float, Field(gt=0, le=1000)] = 0.6
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    repetition_penalty: Annotated[float, Field(ge=1, le=100)] = 1.1
    """For every token of prompt and output; below 1.1 the model tends to loop."""
    max_tokens: Rows = 1200
    """Maximum speech tokens of a piece of text; 1200 tokens are 14 s."""
    grammar: Literal["free", "masked"] = "free"
    """`free`: tokens out of slot order are dropped and counted; `masked`: only the current slot's codes are drawn."""
    voice: str | None = None
    """Name before the text if `rows.voice` is `auto`; null: the requested speaker's name, if any."""
    seed: Seed = 0


class OrpheusConfig(ModelConfig):
    """One Llama, its tokens, and how it is trained and sampled."""

    hidden_size: Size = 3072
    intermediate_size: Annotated[int, Field(ge=1, le=1_000_000)] = 8192
    num_hidden_layers: Depth = 28
    num_attention_heads: Size = 24
    num_key_value_heads: Size = 8
    head_dim: Size = 128
    rms_norm_eps: Positive = 1e-5
    rope_theta: Positive = 500_000.0
    rope_scaling: RopeScaling | None = RopeScaling()
    max_position_embeddings: Rows = 131_072
    vocab_size: Rows = 156_940
    """Rows of the embedding."""
    tie_word_embeddings: bool = True
    """One matrix for the embedding and the head."""
    text_vocab_size: Rows = PUBLISHED.first_custom
    """Number of text ids in the tokenizer; the next id is `<custom_token_0>`."""
    bos_token_id: Annotated[int, Field(ge=0, le=10_000_000)] = PUBLISHED.bos
    eot_token_id: Annotated[int, Field(ge=0, le=10_000_000)] = PUBLISHED.eot
    """Ends the text, `<|eot_id|>`."""

    rows: RowsConfig = RowsConfig()

    param_dtype: Literal["fp32", "bf16"] = "fp32"
    """Type of the trained weights; `bf16` takes half the memory and rounds every update stochastically."""
    checkpoint_activations: bool = False
    """Compute each layer again in the backward pass, to save memory."""
    loss: LossConfig = LossConfig()
    sampling: SamplingConfig = SamplingConfig()

    @model_validator(mode="after")
    def _consistent(self) -> OrpheusConfig:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError("`num_attention_heads` must be a multiple of `num_key_value_heads`")
        if self.head_dim % 2:
            raise ValueError("`head_dim` must be even: rotary positions rotate pairs")
        if max(self.bos_token_id, self.eot_token_id) >= self.text_vocab_size:
            raise ValueError("`bos_token_id` and `eot_token_id` are text ids, below `text_vocab_size`")
        if self.sampling.voice is not None and self.rows.voice not in ("auto", self.sampling.voice):
            named = f"puts `{self.rows.voice}` before every text" if self.rows.voice else "puts no name before texts"
            raise ValueError(f"`sampling.voice` has no effect: `rows.voice` {named}; set `rows.voice: auto`")
        if self.vocab_size < self.ids.end_audio:
            raise ValueError(
                f"`vocab_size` {self.vocab_size:,} has no room for the audio tokens, which need {self.ids.end_audio:,}"
            )
        return self

    @property
    def ids(self) -> TokenIds:
        """The special and audio token ids."""
        return TokenIds(first_custom=self.text_vocab_size, bos=self.bos_token_id, eot=self.eot_token_id)
