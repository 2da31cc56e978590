"""What a plan must know of the GPT and the VAE, alone and together. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

from ttstrain.contract.data import Clip, Review
from ttstrain.contract.model import PeakMoment, Planner
from ttstrain.families.gpt_sovits.config import (
    GptConfig,
    GptNetConfig,
    JointConfig,
    SovitsConfig,
    VaeConfig,
    VaeNetConfig,
    Version,
    is_packed,
)
from ttstrain.families.gpt_sovits.cost import gpt_bytes, gpt_copies, vae_bytes
from ttstrain.families.gpt_sovits.review import num_frames, review
from ttstrain.families.gpt_sovits.shapes import discriminator_shapes, generator_shapes, gpt_shapes
from ttstrain.families.gpt_sovits.text.front_end import SovitsFrontEnd
from ttstrain.recipe.schema import RunSettings

Config = TypeVar("Config", bound=SovitsConfig)

_DISCRIMINATOR = {"discriminator": ("discriminator.*",)}


class SovitsPlanner(Planner[Config]):
    """What is the same for all three tasks."""

    def length(self, clip: Clip) -> int:
        """Return a clip's spectrogram frames, 50 a second."""
        return num_frames(clip)

    def front_end(self) -> SovitsFrontEnd:
        """Return what turns texts into phonemes."""
        text = self.config.text
        return SovitsFrontEnd(version=self.config.version, default_language=text.language, dictionary=text.dictionary)

    def blocks(self) -> Sequence[str]:
        """Return the GPT's layers, if it is trained; the VAE has no blocks of one kind."""
        return ("gpt.h.layers.*",)

    def unaveraged(self) -> Sequence[str]:
        """Return the discriminator, which is never exported."""
        return ("discriminator.*",)

    def review(self, clips: Sequence[Clip]) -> Review:
        """Read every text, and judge lengths and pace for the nets that are trained."""
        return review(clips, self.config)


class GptPlanner(SovitsPlanner[GptConfig]):
    """The GPT alone."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__(config)
        self.packed = is_packed(config)

    def lora_targets(self) -> Sequence[str]:
        """Return the linear layers of the transformer; query, key and value are one matrix that is no layer."""
        return ("gpt.h.layers.*.out_proj", "gpt.h.layers.*.linear1", "gpt.h.layers.*.linear2")

    def parameter_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Map the name of every parameter to its shape."""
        return gpt_shapes(self.config.gpt)

    def peak_moments(self, recipe: RunSettings, lengths: Sequence[int]) -> Sequence[PeakMoment]:
        """Return the end of the forward pass."""
        return [_gpt_moment(self.config.gpt, recipe, lengths)]

    def speech_files(self) -> Mapping[str, str | None]:
        """Return the VAE that turns tokens into sound."""
        return {"vae": self.config.vae}


class VaePlanner(SovitsPlanner[VaeConfig]):
    """The VAE and its discriminator."""

    def parameter_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Map the name of every parameter to its shape."""
        vae, version = self.config.vae, self.config.version
        return {**generator_shapes(vae, version), **_discriminator_shapes(vae, version)}

    def peak_moments(self, recipe: RunSettings, lengths: Sequence[int]) -> Sequence[PeakMoment]:
        """Return the moment at which the generator's loss is known."""
        return [PeakMoment(vae_bytes(self.config.vae, self.config.version, lengths, half=_half(recipe)))]

    def speech_files(self) -> Mapping[str, str | None]:
        """Return the GPT that turns a text into tokens."""
        return {"gpt": self.config.gpt}

    def optimizers(self) -> Mapping[str, Sequence[str]]:
        """Return the generator's and, unless it is switched off, the discriminator's."""
        generator = {"generator": ("vae.*",)}
        return {**generator, **_DISCRIMINATOR} if self.config.vae.discriminator else generator


class JointPlanner(SovitsPlanner[JointConfig]):
    """Both at once."""

    def parameter_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Map the name of every parameter to its shape."""
        vae, version = self.config.vae, self.config.version
        return {
            **gpt_shapes(self.config.gpt),
            **generator_shapes(vae, version),
            **_discriminator_shapes(vae, version),
        }

    def peak_moments(self, recipe: RunSettings, lengths: Sequence[int]) -> Sequence[PeakMoment]:
        """Return the end of the GPT's forward pass, and the moment at which the generator's loss is known."""
        gpt = 4 * sum(map(math.prod, gpt_shapes(self.config.gpt).values()))
        kept = vae_bytes(self.config.vae, self.config.version, lengths, half=_half(recipe))
        return [_gpt_moment(self.config.gpt, recipe, lengths), PeakMoment(kept, gradients=gpt)]

    def optimizers(self) -> Mapping[str, Sequence[str]]:
        """Return that of both nets and, unless it is switched off, the discriminator's."""
        both = {"model": ("gpt.*", "vae.*")}
        return {**both, **_DISCRIMINATOR} if self.config.vae.discriminator else both


def _gpt_moment(config: GptNetConfig, recipe: RunSettings, lengths: Sequence[int]) -> PeakMoment:
    half = _half(recipe)
    return PeakMoment(gpt_bytes(config, lengths, half=half, lora=recipe.lora) + gpt_copies(config, half=half))


def _half(recipe: RunSettings) -> bool:
    return recipe.train.precision != "fp32"


def _discriminator_shapes(vae: VaeNetConfig, version: Version) -> Mapping[str, tuple[int, ...]]:
    return discriminator_shapes(vae, version) if vae.discriminator else {}
