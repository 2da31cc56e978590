"""Trains GPT and VAE in one run, each with its own parameter groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ttstrain.contract.checkpoint import AdaptedWeights
from ttstrain.contract.task import DEFAULT_OPTIMIZER, Loss, Mean, Prompt, Sample, Task
from ttstrain.families.gpt_sovits.batch import SovitsBatch
from ttstrain.families.gpt_sovits.config import JointConfig
from ttstrain.families.gpt_sovits.gpt import task as gpt_task
from ttstrain.families.gpt_sovits.gpt.loss import clip_losses, per_clip, with_edits
from ttstrain.families.gpt_sovits.gpt.net import build_gpt
from ttstrain.families.gpt_sovits.nets import Nets
from ttstrain.families.gpt_sovits.speech import Speech
from ttstrain.families.gpt_sovits.vae.base import DISCRIMINATOR, GPT, VAE, fitted, start_quantizer
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


class JointTask(Task):
    """Train the GPT to predict semantic tokens and the VAE to generate their sound, from the same clips.

    The nets share data, optimizer and schedule, but no loss. Parameter groups in the recipe give each its learning
    rate; `max_grad_norm` of a group clips its gradient separately.
    """

    def __init__(self, config: JointConfig) -> None:
        super().__init__()
        self.config = config
        self.gpt = build_gpt(config.gpt)
        self.vae = build_vae(config.vae, config.version)
        self.discriminator = build_discriminator(config.vae, config.version) if config.vae.discriminator else None
        self.spectrograms = Spectrograms()
        start_quantizer(self.vae, config.features.quantizer)
        self._speech = Speech(config)  # not part of the trained state
        self._both = (Nets(gpt=self.gpt, vae=self.vae),)  # in a tuple, so that it is not a submodule of the task

    @property
    def parts(self) -> VaeParts:
        """The VAE's nets, for its losses."""
        return VaeParts(self.config.vae, self.vae, self.discriminator, self.spectrograms)

    def optimized(self) -> Mapping[str, nn.Module]:
        """Map `model` to GPT and VAE together, and `discriminator` to itself."""
        nets = {DEFAULT_OPTIMIZER: self._both[0], "discriminator": self.discriminator}
        return {name: net for name, net in nets.items() if net is not None}

    def exported(self) -> nn.Module:
        """Return GPT and VAE without the discriminator, under `gpt.*` and `vae.*`."""
        return self._both[0]

    def fitted(self, base: OpenedCheckpoint) -> AdaptedWeights:
        """Take all nets from a base, usually several files; its quantizer must be the one that made the tokens."""
        wanted = [GPT, VAE, *([DISCRIMINATOR] if self.discriminator is not None else [])]
        return fitted(base, self.config.vae, quantizer=self.config.features.quantizer, wanted=wanted)

    # ---------------------------------------------------------------- training

    def repeated_blocks(self) -> Sequence[nn.Module]:
        """Return the GPT's layers; the VAE has no blocks of one kind."""
        return list(self.gpt.h.layers)

    def draw(self, batch: SovitsBatch) -> SovitsBatch:
        """Choose the piece of each clip that the decoder generates and, with DPO, the rejected sample."""
        if self.config.gpt.dpo:
            batch = with_edits(batch, self.config.gpt.compat)
        return draw_segments(batch, self.config.vae)

    def losses(self, batch: SovitsBatch) -> Iterator[Loss]:
        """Yield the GPT's loss, the discriminator's, and the generator's, after which both nets step.

        All are means over clips: the GPT's is the mean of each clip's sum, or mean, over its own targets.
        """
        settings = self.config.gpt
        losses = clip_losses(self.gpt, batch, compat=settings.compat)
        value = per_clip(losses, loss=settings.loss, dpo=settings.dpo)
        yield Loss(value, name="gpt", steps=False, metrics=gpt_task.metrics(losses))
        yield from vae_losses(self.parts, batch, updates=DEFAULT_OPTIMIZER)

    def learn(self, statistics: Mapping[str, Tensor]) -> None:
        """Update the codebook of a trained quantizer."""
        learn_codes(self.vae, statistics)

    # ---------------------------------------------------------------- evaluation

    @torch.no_grad()
    def evaluate(self, batch: SovitsBatch, generator: torch.Generator) -> Mapping[str, Tensor | Mean]:
        """Return the values of both nets' own tasks; `total` is the sum of `gpt` and `vae`, each a mean over clips."""
        losses = clip_losses(self.gpt, replace(batch, edits=()), compat="none")
        gpt = per_clip(losses, loss="mean", dpo=0.0)
        vae = evaluate_vae(self.parts, batch, generator)
        total = vae.pop("total")
        return {
            "total": gpt + total,
            "gpt": gpt,
            "vae": total,
            "eos": losses.eos,
            "acc_top3": losses.acc_top3,
            **vae,
        }

    def remarks(self, values: Mapping[str, float], *, step: int) -> Sequence[str]:
        """Return the warnings of both nets' own tasks."""
        gpt = {"total": values["gpt"]} if "gpt" in values else {}
        return [*gpt_task.remarks(gpt, self.config.gpt, step=step), *vae_remarks(values, step=step)]

    # ---------------------------------------------------------------- listening

    def prepare_sampling(self) -> str:
        """Name the nets that generate samples: the two that are trained."""
        return "the GPT and the VAE that are trained"

    def sample(self, prompt: Prompt) -> Sample:
        """Generate a text in the voice of a reference with both nets."""
        return self._speech.speak(self.gpt, self.vae, prompt, sound=self.prepare_sampling())
