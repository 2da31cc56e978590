"""The real and synthetic speech of `tests/fixtures_judge`."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import NamedTuple

import soundfile
import torch

from ttstrain.contract.task import Audio

FOLDER = Path(__file__).resolve().parents[1] / "fixtures_judge"
REAL = ("ljspeech", "1688", "2414", "367", "533")


class Spoken(NamedTuple):
    """A clip with who says what in it."""

    name: str
    speaker: str
    text: str
    audio: Audio


@functools.cache
def clips(*speakers: str) -> tuple[Spoken, ...]:
    """Return the clips of some speakers, or of all."""
    entries = json.loads((FOLDER / "clips.json").read_text(encoding="utf-8"))
    return tuple(
        Spoken(entry["name"], entry["speaker"], entry["text"], _read(entry["name"]))
        for entry in entries
        if not speakers or entry["speaker"] in speakers
    )


def clip(name: str) -> Spoken:
    """Return a clip by its name."""
    return next(one for one in clips() if one.name == name)


@functools.cache
def goldens() -> dict[str, object]:
    """Return what independent packages measured."""
    return json.loads((FOLDER / "goldens.json").read_text(encoding="utf-8"))


def noisy(audio: Audio, level: float) -> Audio:
    """Return a clip with white noise of a standard deviation."""
    noise = torch.randn(len(audio.wav), generator=torch.Generator().manual_seed(0))
    return Audio(audio.wav + level * noise, audio.sample_rate)


def stretched(audio: Audio, factor: float) -> Audio:
    """Return a clip that takes `factor` times as long, at the same pitch, by a phase vocoder."""
    from torchaudio.transforms import TimeStretch

    window = torch.hann_window(512)
    spectrum = torch.stft(audio.wav, 512, 128, window=window, return_complex=True)
    slower = TimeStretch(hop_length=128, n_freq=257, fixed_rate=1 / factor)(spectrum)
    return Audio(torch.istft(slower, 512, 128, window=window), audio.sample_rate)


def _read(name: str) -> Audio:
    wav, rate = soundfile.read(FOLDER / f"{name}.ogg", dtype="float32")
    return Audio(torch.from_numpy(wav), rate)
