"""Sound that passes for speech and a family small enough to see through."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ttstrain.contract.data import Clip, TaskData

RATE = 16_000
HOP = 160
TEXT_PER_S = "ten or more "  # nine letters


def syllables(seconds: float, *, rate: int = RATE, seed: int = 0, peak: float = 0.5) -> np.ndarray:
    """Make noise that comes and goes four times a second, (t,)."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * rate)) / rate
    wave = rng.normal(0, 1, len(t)) * (0.02 + np.sin(np.pi * 4 * t) ** 2)
    return (wave / np.abs(wave).max() * peak).astype(np.float32)


def text_for(seconds: float) -> str:
    return (TEXT_PER_S * max(1, round(seconds))).strip()


def write_clips(folder: Path, durations: Sequence[float], *, rate: int = RATE) -> list[Clip]:
    """Write recordings of these lengths and describe them as the audit would."""
    folder.mkdir(parents=True, exist_ok=True)
    clips = []
    for i, seconds in enumerate(durations):
        path = folder / f"clip{i:02d}.wav"
        soundfile.write(path, syllables(seconds, rate=rate, seed=i), rate)
        clips.append(Clip(id=path.stem, path=path, text=text_for(seconds), duration_s=seconds, sample_rate=rate))
    return clips


def write_ljspeech(folder: Path, durations: Sequence[float]) -> Path:
    """Write a data folder in LJSpeech layout."""
    clips = write_clips(folder / "wavs", durations)
    table = "".join(f"{clip.id}|{clip.text} {clip.id}|{clip.text} {clip.id}\n" for clip in clips)
    (folder / "metadata.csv").write_text(table, encoding="utf-8")
    return folder


@dataclasses.dataclass(frozen=True, slots=True)
class ToyBatch:
    ids: Sequence[str]
    energy: Tensor  # (b, n)
    weight: float
    num_frames: int
    num_padded: int

    def to(self, device: torch.device) -> ToyBatch:
        return dataclasses.replace(self, energy=self.energy.to(device))


class ToyData(TaskData):
    """Energy in frames of 10 ms."""

    sample_rate = RATE
    frames_per_s = RATE / HOP

    def __init__(self, fingerprint: str = "toy") -> None:
        self.fingerprint = fingerprint
        self.computed: list[str] = []

    def features(self, wav: Tensor, clip: Clip) -> dict[str, Tensor]:
        self.computed.append(clip.id)
        if "broken" in clip.text:
            raise ValueError("no phonemes for this text")
        energy = wav[: len(wav) // HOP * HOP].reshape(-1, HOP).pow(2).mean(1)  # (n,)
        return {"energy": energy * float("nan") if "nan" in clip.text else energy}

    def length(self, clip: Clip) -> int:
        return clip.samples_at(RATE) // HOP

    def example(self, clip: Clip, features: Mapping[str, Tensor]) -> Any:
        return clip.id, features["energy"]

    def collate(self, examples: Sequence[Any]) -> ToyBatch:
        energy = pad_sequence([energy for _, energy in examples], batch_first=True)
        frames = sum(len(energy) for _, energy in examples)
        return ToyBatch([name for name, _ in examples], energy, float(frames), frames, energy.numel())


class HangingData(ToyData):
    """Never ends where it computes the features of some clips, as a decoder may, or a drive that is gone."""

    def __init__(self, hangs: Iterable[str]) -> None:
        super().__init__()
        self.hangs = frozenset(hangs)

    def features(self, wav: Tensor, clip: Clip) -> dict[str, Tensor]:
        while clip.id in self.hangs:
            time.sleep(60)
        return super().features(wav, clip)
