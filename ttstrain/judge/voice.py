"""How near a voice is to the wanted speaker's: cosine of speaker embeddings by the GE2E encoder of Resemblyzer.

Wan et al. 2018, "Generalized end-to-end loss for speaker verification". The weights are those of Resemblyzer 0.1.4
(`_weights/NOTICE`); the net and what goes into it are ours. Two things differ from upstream: silences are cut by an
energy rule (`find_speech`) where upstream asks webrtcvad; and all speech is brought to one level, where upstream raises
only what is below -30 dBFS, because the net hears power and the same clip at another level would be another voice.

Legend: t samples, n frames, p partial utterances.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from ttstrain.contract.task import Audio
from ttstrain.judge.waveform import RATE, at_rate, find_speech, mel_power

WEIGHTS = Path(__file__).parent / "_weights" / "ge2e.safetensors"
N_MELS = 40
SIZE = 256  # of the hidden state and of an embedding
PARTIAL = 160  # frames of 10 ms
PARTIALS_PER_S = 1.3  # as Resemblyzer's embed_utterance
COVERAGE = 0.75  # of the last partial utterance that has to be speech
VOLUME_DBFS = -25.0  # of speech; separates voices as well as their own levels do
KEPT_AROUND_S = 0.09  # silence that stays on either side of speech
SHORTEST_S = 1.0  # of speech


class SpeakerEncoder(nn.Module):
    """Three LSTM layers, a linear layer and ReLU; 1.4 M weights."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(N_MELS, SIZE, num_layers=3, batch_first=True)
        self.linear = nn.Linear(SIZE, SIZE)

    def forward(self, mels: Tensor) -> Tensor:
        """Return embeddings (p, 256) of unit length, without negative values, of power mels (p, n, 40)."""
        _, (hidden, _) = self.lstm(mels)
        return F.normalize(self.linear(hidden[-1]).relu(), dim=1)


@functools.cache
def load_encoder() -> SpeakerEncoder:
    """Load the weights that ship with the package, once per process."""
    encoder = SpeakerEncoder()
    encoder.load_state_dict({name: tensor.float() for name, tensor in load_file(WEIGHTS).items()})
    return encoder.eval().requires_grad_(False)


def embed(audio: Audio) -> Tensor | None:
    """Return the embedding (256,) of a clip's voice, of unit length; None with less than 1 s of speech."""
    wav = speech_only(at_rate(audio))
    return embed_speech(wav) if len(wav) >= SHORTEST_S * RATE else None


def embed_speech(wav: Tensor) -> Tensor:
    """Return the embedding (256,) of a waveform (t,) at 16 kHz, as Resemblyzer's `embed_utterance` does."""
    starts = partial_starts(len(wav))
    samples_per_frame = RATE // 100
    end = (starts[-1] + PARTIAL) * samples_per_frame
    mel = mel_power(F.pad(wav, (0, max(0, end - len(wav)))), n_mels=N_MELS)  # (n, 40)
    with torch.no_grad():
        partials = load_encoder()(torch.stack([mel[start : start + PARTIAL] for start in starts]))  # (p, 256)
    return F.normalize(partials.mean(0), dim=0)


def partial_starts(num_samples: int) -> list[int]:
    """Return the first frames of the partial utterances of 1.6 s that cover a waveform at 16 kHz."""
    samples_per_frame = RATE // 100
    frames = math.ceil((num_samples + 1) / samples_per_frame)
    step = round(RATE / PARTIALS_PER_S / samples_per_frame)
    starts = list(range(0, max(1, frames - PARTIAL + step + 1), step))
    covered = (num_samples / samples_per_frame - starts[-1]) / PARTIAL
    return starts[:-1] if covered < COVERAGE and len(starts) > 1 else starts


def speech_only(wav: Tensor) -> Tensor:
    """Return the speech of a waveform at 16 kHz at -25 dBFS, with pauses shortened to 0.18 s; empty without speech."""
    ranges: list[tuple[int, int]] = []
    for stretch in find_speech(wav):
        start = max(0, round((stretch.start_s - KEPT_AROUND_S) * RATE))
        end = min(len(wav), round((stretch.end_s + KEPT_AROUND_S) * RATE))
        ranges.append((max(start, ranges[-1][1]) if ranges else start, end))
    if not ranges:
        return wav[:0]
    speech = torch.cat([wav[start:end] for start, end in ranges])
    return speech * (10 ** (VOLUME_DBFS / 20) / speech.square().mean().sqrt())


def centroid(embeddings: Sequence[Tensor]) -> Tensor:
    """Return the mean direction (256,) of a speaker's embeddings; ValueError if there are none."""
    if not embeddings:
        raise ValueError("a speaker needs at least one embedding")
    return F.normalize(torch.stack(list(embeddings)).mean(0), dim=0)


def similarity(a: Tensor, b: Tensor) -> float:
    """Return the cosine of two embeddings of unit length: 0 to 1, as neither has negative values."""
    return float(a @ b)
