"""HuBERT: recordings to 50 frames of 768 features a second, from which semantic tokens are made.

Always fp32: in half precision its outputs overflow on ordinary recordings (RVC-Boss/GPT-SoVITS issue 89). One recording
at a time: its first layer normalises over time, so that padding would change what it says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from ttstrain.errors import CheckpointError, DataError
from ttstrain.families.gpt_sovits.features.files import digest_of_folder, find_folder
from ttstrain.families.gpt_sovits.features.toy import TOY, toy_hubert
from ttstrain.families.gpt_sovits.features.transformer import load_encoder
from ttstrain.modules.full_precision import full_precision

if TYPE_CHECKING:
    from transformers import HubertModel

WIDTH: Final = 768
SAMPLES_PER_FRAME: Final = 320  # at 16 kHz
SHORTEST: Final = 400  # samples that make one frame


class Hubert:
    """HuBERT with its weights."""

    def __init__(self, net: HubertModel, device: torch.device) -> None:
        self.net = net.to(device)
        self.device = device

    def encode(self, wav: Tensor) -> Tensor:
        """Return the last hidden layer (n, 768) of a waveform (t,) at 16 kHz, scaled by `sound.HUBERT_SCALE`.

        Raises DataError when the recording is too short, or what comes out is not finite.
        """
        if len(wav) < SHORTEST:
            raise DataError(f"{len(wav)} samples are too short for HuBERT")
        with torch.inference_mode(), full_precision():
            features: Tensor = self.net(wav[None].float().to(self.device)).last_hidden_state[0].cpu()
        if not bool(torch.isfinite(features).all()):
            raise DataError("HuBERT's features are not finite; the recording or the model file may be damaged")
        return features.clone()


def load_hubert(spec: str, device: torch.device) -> Hubert:
    """Load HuBERT from a folder or `hf://`. Raises CheckpointError when it is none, or of another width or rate."""
    if spec == TOY:
        return Hubert(toy_hubert(), device)
    net = load_encoder("HubertModel", find_folder(spec, what="HuBERT"), spare=("masked_spec_embed",))
    rate = 1
    for stride in net.config.conv_stride:
        rate *= stride
    if net.config.hidden_size != WIDTH or rate != SAMPLES_PER_FRAME:
        raise CheckpointError(
            f"the HuBERT `{spec}` has {net.config.hidden_size} features every {rate} samples, {WIDTH} every "
            f"{SAMPLES_PER_FRAME} needed",
            hint="the published models were trained on hf://lj1995/GPT-SoVITS/chinese-hubert-base",
        )
    return Hubert(net, device)


def hubert_digest(spec: str) -> str:
    """Return a hash of the model's files."""
    return TOY if spec == TOY else digest_of_folder(find_folder(spec, what="HuBERT"))
