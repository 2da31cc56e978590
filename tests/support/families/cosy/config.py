"""Settings of both nets. Imports no torch."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field, model_validator

from ttstrain.contract.model import ModelConfig
from ttstrain.recipe.schema import Depth, Section, Size

SAMPLE_RATE = 24_000  # Hz
HOP_LENGTH = 480  # samples: 50 mel frames a second
FRAMES_PER_TOKEN = 2  # 25 speech tokens a second
NUM_BYTES = 256  # text tokens are the bytes of UTF-8


class NetConfig(Section):
    """One transformer."""

    dim: Size = 32
    depth: Depth = 2
    heads: Size = 2
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

    @model_validator(mode="after")
    def _consistent(self) -> NetConfig:
        if self.dim % (2 * self.heads):
            raise ValueError("`dim` must be a multiple of twice `heads`")
        return self


class CosyConfig(ModelConfig):
    """The language model, the flow, and the speech tokens between them."""

    llm: NetConfig = NetConfig()
    flow: NetConfig = NetConfig()
    n_mels: Size = 20
    levels: tuple[Annotated[int, Field(ge=2, le=16)], ...] = (4, 4, 4)
    """Levels of each band of the mel that a speech token tells; their product is the number of tokens."""

    @model_validator(mode="after")
    def _bands(self) -> CosyConfig:
        if not 1 <= len(self.levels) <= self.n_mels:
            raise ValueError("`levels` has one entry for each band, of which there are at most `n_mels`")
        return self

    @property
    def num_codes(self) -> int:
        """Number of different speech tokens."""
        return math.prod(self.levels)
