"""Names and shapes of every trainable parameter, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ttstrain.families.gpt_sovits.config import GptNetConfig, VaeNetConfig, Version

Shapes = Mapping[str, tuple[int, ...]]


def gpt_shapes(config: GptNetConfig) -> Shapes:
    """List the GPT's parameters, `gpt.*`."""
    raise NotImplementedError


def generator_shapes(config: VaeNetConfig, version: Version) -> Shapes:
    """List the VAE's parameters, `vae.*`."""
    raise NotImplementedError


def discriminator_shapes(config: VaeNetConfig, version: Version) -> Shapes:
    """List the discriminator's parameters, `discriminator.*`."""
    raise NotImplementedError
