"""What v2Pro and v2ProPlus know of a speaker besides the reference's spectrogram: 20480 numbers of ERes2NetV2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
import torchaudio
from torch import Tensor

from ttstrain.errors import CheckpointError, DataError
from ttstrain.families.gpt_sovits.features.eres2net import NUM_MELS, SpeakerNet, net_like
from ttstrain.families.gpt_sovits.features.files import digest_of, find_file
from ttstrain.families.gpt_sovits.features.sound import RATES
from ttstrain.families.gpt_sovits.features.toy import TOY, toy_speaker
from ttstrain.modules.full_precision import full_precision
from ttstrain.tensors.contents import read_contents, refuse_unsafe
from ttstrain.tensors.loading import load_weights

WIDTH: Final = 20_480
FRAME: Final = 400  # samples at 16 kHz that the first frame needs
TOY_FRAMES: Final = 32  # all 20480 outputs make even the smallest net slow


class SpeakerEncoder:
    """ERes2NetV2 with its weights, always in fp32."""

    def __init__(self, net: SpeakerNet, device: torch.device, *, most_frames: int | None = None) -> None:
        self.net = net.eval().requires_grad_(False).to(device)
        self.device = device
        self.most_frames = most_frames  # of 10 ms that are heard; None: all

    def encode(self, wav: Tensor) -> Tensor:
        """Describe the speaker (20480,) of a waveform (t,) in [-1, 1] at 32 kHz: the one the VAE learns.

        Raises DataError when it is too short, or what comes out is not finite.
        """
        with torch.inference_mode(), full_precision():
            described: Tensor = self.net(fbank(wav)[None, : self.most_frames].to(self.device))[0].cpu()
        if not bool(torch.isfinite(described).all()):
            raise DataError("the speaker embedding is not finite; the recording or the model file may be damaged")
        return described.clone()


def fbank(wav: Tensor) -> Tensor:
    """Return Kaldi's 80 mel bands (n, 80) of a waveform (t,) at 32 kHz: 10 ms apart, no dither, as upstream reads."""
    narrow = torchaudio.functional.resample(wav.float(), *RATES)
    if len(narrow) < FRAME:
        raise DataError("the recording is too short for a speaker embedding")
    mel: Tensor = torchaudio.compliance.kaldi.fbank(
        narrow[None], num_mel_bins=NUM_MELS, sample_frequency=float(RATES[1]), dither=0.0
    )
    return mel


def load_speaker(spec: str, device: torch.device) -> SpeakerEncoder:
    """Load the published checkpoint from a path or `hf://`. Raises CheckpointError unless every tensor fits."""
    if spec == TOY:
        return SpeakerEncoder(toy_speaker(), device, most_frames=TOY_FRAMES)
    path = find_file(spec, what="ERes2NetV2")
    contents = read_contents(path)
    refuse_unsafe(contents)
    if not isinstance(contents.tree, Mapping):
        raise CheckpointError(f"`{path}` is not a state dict")
    try:
        net = net_like(contents.tree)
    except (KeyError, AttributeError, IndexError) as error:
        raise CheckpointError(
            f"`{path}` is not an ERes2NetV2: it has no {error}",
            hint="the published one is hf://lj1995/GPT-SoVITS/sv/pretrained_eres2netv2w24s4ep4.ckpt",
        ) from error
    load_weights(net, dict(contents.tree), source=str(path))
    if net.num_features != WIDTH:
        raise CheckpointError(f"`{path}` has speaker embeddings of size {net.num_features:,}, {WIDTH:,} is needed")
    return SpeakerEncoder(net, device)


def speaker_digest(spec: str) -> str:
    """Return a hash of the model's file."""
    return TOY if spec == TOY else digest_of([find_file(spec, what="ERes2NetV2")])
