"""Trains, evaluates and samples the VAE alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ttstrain.contract.checkpoint import AdaptedWeights
from ttstrain.contract.task import Loss, Prompt, Sample, Task
from ttstrain.families.gpt_sovits.batch import SovitsBatch
from ttstrain.families.gpt_sovits.config import VaeConfig
from ttstrain.families.gpt_sovits.nets import Nets
from ttstrain.families.gpt_sovits.speech import Speech, no_partner
from ttstrain.families.gpt_sovits.vae.base import DISCRIMINATOR, VAE, fitted, start_quantizer
from ttstrain.families.gpt_sovits.vae.mel import Spectrograms
from ttstrain.families.gpt_sovits.vae.synthesizer import build_discriminator, build_vae
from ttstrain.families.gpt_sovits.vae.training import (
    VaeParts,
    draw_segments,
    evaluate_vae,
    learn_codes,
    vae_losses,
    vae_remarks,
)

if TYPE_CHECKING:
    from ttstrain.contract.checkpoint import OpenedCheckpoint
    from ttstrain.families.gpt_sovits.gpt.net import Text2SemanticDecoder


class VaeTask(Task):
    """Train the VAE to generate sound from semantic tokens, with a discriminator."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.config = config
        self.vae = build_vae(config.vae, config.version)
        self.discriminator = build_discriminator(config.vae, config.version) if config.vae.discriminator else None
        self.spectrograms = Spectrograms()
        start_quantizer(self.vae, config.features.quantizer)
        self._speech = Speech(config)  # not part of the trained state
        self._exported = (Nets(vae=self.vae),)  # in a tuple, so that it is not a submodule: the state has each net once

    @property
    def parts(self) -> VaeParts:
        """The nets, for the losses."""
        return VaeParts(self.config.vae, self.vae, self.discriminator, self.spectrograms)

    def optimized(self) -> Mapping[str, nn.Module]:
        """Map `generator` and `discriminator`, as GAN papers call them, to VAE and discriminator."""
        nets = {"generator": self.vae, "discriminator": self.discriminator}
        return {name: net for name, net in nets.items() if net is not None}

    def exported(self) -> nn.Module:
        """Return the VAE without the discriminator, under `vae.*`."""
        return self._exported[0]

    def fitted(self, base: OpenedCheckpoint) -> AdaptedWeights:
        """Take VAE and discriminator from a base; its quantizer must be the one that made the tokens."""
        wanted = [VAE, *([DISCRIMINATOR] if self.discriminator is not None else [])]
        return fitted(base, self.config.vae, quantizer=self.config.features.quantizer, wanted=wanted)

    # ---------------------------------------------------------------- training

    def draw(self, batch: SovitsBatch) -> SovitsBatch:
        """Choose the piece of each clip that the decoder generates."""
        return draw_segments(batch, self.config.vae)

    def losses(self, batch: SovitsBatch) -> Iterator[Loss]:
        """Yield the discriminator's loss and then the generator's, scored by the discriminator that has stepped."""
        yield from vae_losses(self.parts, batch, updates="generator")

    def learn(self, statistics: Mapping[str, Tensor]) -> None:
        """Update the codebook of a trained quantizer."""
        learn_codes(self.vae, statistics)

    # ---------------------------------------------------------------- evaluation

    @torch.no_grad()
    def evaluate(self, batch: SovitsBatch, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Return mel distance, KL, their weighted sum `total`, and the discriminator's mean scores."""
        return evaluate_vae(self.parts, batch, generator)

    def remarks(self, values: Mapping[str, float], *, step: int) -> Sequence[str]:
        """Warn if KL has collapsed, or the discriminator is too strong or too weak."""
        return vae_remarks(values, step=step)

    # ---------------------------------------------------------------- listening

    def prepare_sampling(self) -> str:
        """Load the GPT that the recipe names, if it names one."""
        if self.config.gpt is None:
            return "none: `model.gpt` is not set"
        self._gpt(self.config.gpt)
        return f"the VAE that is trained, after the GPT of `{Path(self.config.gpt).name}`"

    def sample(self, prompt: Prompt) -> Sample:
        """Generate a text in the voice of a reference, with tokens of the GPT of `model.gpt`."""
        if self.config.gpt is None:
            raise no_partner("gpt")
        return self._speech.speak(self._gpt(self.config.gpt), self.vae, prompt, sound=self.prepare_sampling())

    def _gpt(self, path: str) -> Text2SemanticDecoder:
        return self._speech.gpt(path, self.vae.dec.conv_pre.weight.device)
