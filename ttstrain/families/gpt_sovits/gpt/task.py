"""Trains, evaluates and samples the GPT alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ttstrain.contract.checkpoint import AdaptedWeights
from ttstrain.contract.task import Loss, Mean, Prompt, Sample, Task
from ttstrain.families.gpt_sovits.batch import SovitsBatch
from ttstrain.families.gpt_sovits.config import GptConfig, GptNetConfig
from ttstrain.families.gpt_sovits.gpt.loss import ClipLosses, clip_losses, num_targets, per_clip, per_target, with_edits
from ttstrain.families.gpt_sovits.gpt.net import Text2SemanticDecoder, build_gpt
from ttstrain.families.gpt_sovits.parts import only
from ttstrain.families.gpt_sovits.speech import Speech, no_partner

if TYPE_CHECKING:
    from ttstrain.contract.checkpoint import OpenedCheckpoint
    from ttstrain.families.gpt_sovits.vae.synthesizer import Synthesizer

FRESH = 0.98  # share of a uniform guess above which a net has learned nothing yet
STRANGE = 5.0  # nats a token at step 0: a base that knows the tokens is near 3


class GptTask(Task):
    """Train the GPT to continue phonemes with semantic tokens."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.config = config
        self.gpt = build_gpt(config.gpt)
        self._speech = Speech(config)  # not part of the trained state

    def optimized(self) -> Mapping[str, torch.nn.Module]:
        """One optimizer for all of it."""
        return {"model": self.gpt}

    def fitted(self, base: OpenedCheckpoint) -> AdaptedWeights:
        """Take the GPT from a base that may hold the VAE as well."""
        return only(base, ("gpt.",))

    # ---------------------------------------------------------------- training

    def repeated_blocks(self) -> Sequence[torch.nn.Module]:
        """Return the net's layers."""
        return list(self.gpt.h.layers)

    def draw(self, batch: SovitsBatch) -> SovitsBatch:
        """Choose the rejected samples of DPO; the weight becomes targets for a mean, clips for a sum."""
        return draw(batch, self.config.gpt)

    def losses(self, batch: SovitsBatch) -> Iterator[Loss]:
        """Yield the cross entropy: a mean over targets, or over clips of the sum of theirs."""
        losses = clip_losses(self.gpt, batch, compat=self.config.gpt.compat)
        yield Loss(value(losses, self.config.gpt), name="gpt", metrics=metrics(losses))

    # ---------------------------------------------------------------- evaluation

    @torch.no_grad()
    def evaluate(self, batch: SovitsBatch, generator: torch.Generator) -> Mapping[str, Tensor | Mean]:
        """Return the negative log-likelihood per target, always without padding."""
        return evaluation(self.gpt, batch)

    def remarks(self, values: Mapping[str, float], *, step: int) -> Sequence[str]:
        """Warn at step 0 if the base does not predict the tokens, and later if the net is no better than chance."""
        return remarks(values, self.config.gpt, step=step)

    # ---------------------------------------------------------------- listening

    def prepare_sampling(self) -> str:
        """Load the VAE that the recipe names, if it names one."""
        if self.config.vae is None:
            return "none: `model.vae` is not set"
        self._vae(self.config.vae)
        return f"the VAE of `{Path(self.config.vae).name}`"

    def sample(self, prompt: Prompt) -> Sample:
        """Generate a text in the voice of a reference, with the VAE of `model.vae`."""
        if self.config.vae is None:
            raise no_partner("vae")
        return self._speech.speak(self.gpt, self._vae(self.config.vae), prompt, sound=self.prepare_sampling())

    def _vae(self, path: str) -> Synthesizer:
        return self._speech.vae(path, self.gpt.ar_predict_layer.weight.device)


def draw(batch: SovitsBatch, config: GptNetConfig) -> SovitsBatch:
    """Make a step's choices for the GPT alone."""
    if config.dpo:
        batch = with_edits(batch, config.compat)
    weight = sum(num_targets(batch, config.compat)) if config.loss == "mean" else len(batch.ids)
    return replace(batch, weight=float(weight))


def value(losses: ClipLosses, config: GptNetConfig) -> Tensor:
    """Return the mean over the units that `draw` makes a batch's weight."""
    if config.loss == "mean":
        return per_target(losses, dpo=config.dpo)
    # Upstream adds the preference's mean over the batch to the sum over the batch.
    dpo = config.dpo if config.compat == "none" else config.dpo / len(losses.num_targets)
    return per_clip(losses, loss="sum", dpo=dpo)


def metrics(losses: ClipLosses) -> dict[str, Tensor | Mean]:
    """Return the metrics of the loss."""
    found: dict[str, Tensor | Mean] = {"acc_top3": losses.acc_top3}
    if losses.preference is not None:
        clips = torch.full((), float(len(losses.num_targets)), device=losses.nll.device)
        found["dpo"] = Mean(losses.preference.detach().sum(), clips)
    return found


def evaluation(net: Text2SemanticDecoder, batch: SovitsBatch) -> dict[str, Tensor | Mean]:
    """Return held-out losses: of all targets, of the ends of speech, and the accuracy."""
    losses = clip_losses(net, replace(batch, edits=()), compat="none")
    count = torch.full((), float(sum(losses.num_targets)), device=losses.nll.device)
    return {"total": Mean(losses.nll.double().sum(), count), "eos": losses.eos, "acc_top3": losses.acc_top3}


def remarks(values: Mapping[str, float], config: GptNetConfig, *, step: int) -> list[str]:
    """Return the negative log-likelihood per target."""
    total, guess = values.get("total"), math.log(config.vocab_size)
    if total is None:
        return []
    if step == 0:
        if STRANGE < total < FRESH * guess or total > 1.2 * guess:
            return [
                f"the base does not predict the semantic tokens ({total:.2f} nats per token, chance is {guess:.2f}): "
                "check that they were made by the quantizer it was trained with"
            ]
        return []
    if total >= FRESH * guess:
        return [f"the GPT is no better than chance yet: {total:.2f} nats per token, chance is {guess:.2f}"]
    return []
