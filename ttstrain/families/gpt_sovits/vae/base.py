"""Loads a VAE's base: checks that it is complete and that its quantizer is the data's."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import torch

from ttstrain.contract.checkpoint import AdaptedWeights
from ttstrain.errors import CheckpointError
from ttstrain.families.gpt_sovits.config import VaeNetConfig
from ttstrain.families.gpt_sovits.features.tokens import Quantizer, from_weights, load_quantizer
from ttstrain.families.gpt_sovits.features.toy import TOY, toy_quantizer
from ttstrain.families.gpt_sovits.parts import only
from ttstrain.families.gpt_sovits.vae.synthesizer import Synthesizer
from ttstrain.tensors.hub import NotFetchedError

if TYPE_CHECKING:
    from ttstrain.contract.checkpoint import OpenedCheckpoint

GPT, VAE, POSTERIOR, DISCRIMINATOR = "gpt.", "vae.", "vae.enc_q.", "discriminator."
WHAT = {
    GPT: ("the GPT", "add its s1 file"),
    VAE: ("the VAE", "add its s2G file"),
    POSTERIOR: ("the posterior encoder, which exports leave out", "put the s2G it was trained from before it"),
    DISCRIMINATOR: ("the discriminator", "add the s2D of the same version, or set `model.vae.discriminator=false`"),
}


def fitted(base: OpenedCheckpoint, config: VaeNetConfig, *, quantizer: str, wanted: Collection[str]) -> AdaptedWeights:
    """Return those of a base's tensors that a task of these parts (`gpt.`, `vae.`, `discriminator.`) trains.

    Raises CheckpointError when a part is missing, or when the base's quantizer is another than the one that made the
    semantic tokens: the same token would then mean different sounds.
    """
    parts = [part for part in (GPT, VAE, POSTERIOR, DISCRIMINATOR) if part.startswith(tuple(wanted))]
    for part in parts:
        if not any(name.startswith(part) for name in base.weights):
            what, hint = WHAT[part]
            raise CheckpointError(
                f"`{base.title}` does not hold {what}", hint=f"{hint}: `base: [FILE, FILE]` takes several"
            )
    if config.freeze_quantizer:
        check_tokens(base, quantizer=quantizer)
    return only(base, wanted)


def check_tokens(base: OpenedCheckpoint, *, quantizer: str) -> None:
    """Raise CheckpointError unless the base's quantizer is the one that `features.quantizer` names.

    Under `hub.nothing_fetched()` a file that was not downloaded yet is not compared.
    """
    own = from_weights(base.weights, source=base.title)
    try:
        used = load_quantizer(quantizer)
    except NotFetchedError:
        return
    if own.digest == used.digest or (quantizer == TOY and _differ_by_rounding(own, used)):
        return
    raise CheckpointError(
        f"the quantizer of `{base.title}` ({own.digest}) is not that of `{quantizer}` ({used.digest}): the same token "
        "would mean two different sounds",
        hint="set `model.features.quantizer` to the base's own s2G file, and prepare the data again",
    )


def _differ_by_rounding(own: Quantizer, used: Quantizer) -> bool:
    """Tell whether both are the small encoders' quantizer, which every machine computes for itself."""
    pairs = ((own.weight, used.weight), (own.bias, used.bias), (own.codebook, used.codebook))
    return all(torch.allclose(one, other, rtol=1e-2, atol=1e-2) for one, other in pairs)


def start_quantizer(vae: Synthesizer, quantizer: str) -> None:
    """Give a fresh VAE the quantizer of the small encoders, so that it means the same by a token as its data.

    With a published one the base brings it.
    """
    if quantizer != TOY:
        return
    own = vae.state_dict(keep_vars=True)
    for name, tensor in toy_quantizer().items():
        own[name].data.copy_(tensor)
