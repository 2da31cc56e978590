"""Our mels against upstream's, which come from torchaudio and librosa."""

from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

import pytest
import torch
import torchaudio
from safetensors.torch import load_file

from ttstrain.modules.mel import MelKind, MelSpectrogram

KINDS = get_args(MelKind)
RESAMPLED = 10 * 3.3e-6  # upstream's own samples move by 3.3e-6 with oneDNN off


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", ["mel", "mel_batch2", "mel_silence"])
def test_mel_is_upstreams(fixtures_dir: Path, kind: MelKind, case: str) -> None:
    given = load_file(fixtures_dir / "f5_mel" / "inputs.safetensors")
    expected = load_file(fixtures_dir / "f5_mel" / "expected.safetensors")[f"{kind}_{case}"]
    wav = {"mel": given["wav_24k"], "mel_batch2": given["batch2"], "mel_silence": torch.zeros(1, 4000)}[case]
    mel = MelSpectrogram(kind)(wav)
    # Magnitudes to 1e-5 of a frame's loudest, since filters differ between processors (see below). The log of the
    # quietest bins is rounding: upstream's own float32 is 8e-4 off its float64 there, and processors differ by as much.
    loudest = expected.exp().amax(dim=1, keepdim=True)
    assert bool(((mel.exp() - expected.exp()).abs() <= 1e-5 * loudest).all())
    torch.testing.assert_close(mel, expected, rtol=0, atol=1e-2)
    assert mel.shape[-1] == wav.shape[-1] // 256 + (kind == "vocos")


@pytest.mark.parametrize("kind", KINDS)
def test_filters_are_upstreams(fixtures_dir: Path, kind: MelKind) -> None:
    expected = load_file(fixtures_dir / "f5_mel" / "expected.safetensors")[f"{kind}_filterbank"]
    filters = MelSpectrogram(kind).filters
    # torchaudio raises 10 to float32 powers: torch without vector instructions gives filters that differ by 1.1e-5.
    torch.testing.assert_close(filters if kind == "vocos" else filters.T, expected, rtol=0, atol=5e-5)


def test_resampling_is_upstreams(fixtures_dir: Path) -> None:
    given = load_file(fixtures_dir / "f5_mel" / "inputs.safetensors")
    expected = load_file(fixtures_dir / "f5_mel" / "expected.safetensors")["resampled_24k"]
    wav = torchaudio.transforms.Resample(22_050, 24_000)(given["wav_source"])
    torch.testing.assert_close(wav, expected, rtol=0, atol=RESAMPLED)


@pytest.mark.parametrize(
    ("kind", "frames", "mean", "bins"),
    [
        ("vocos", 94, -5.016958, [-3.22959, -2.94498, -2.55851, -2.07165, -1.4578, -0.66211]),
        ("bigvgan", 93, -9.480595, [-6.64901, -5.61844, -4.84378, -3.56848, -1.23279, 0.66598]),
    ],
)
def test_mel_of_two_sines_is_upstreams(kind: MelKind, frames: int, mean: float, bins: list[float]) -> None:
    seconds = torch.arange(24_000) / 24_000  # in float32: its rounding is the noise floor that most bins show
    wav = 0.3 * torch.sin(2 * math.pi * 220 * seconds) + 0.1 * torch.sin(2 * math.pi * 3000 * seconds)
    mel = MelSpectrogram(kind)(wav[None])
    assert mel.shape == (1, 100, frames)
    assert float(mel.mean()) == pytest.approx(mean, rel=1e-4)
    assert mel[0, :6, 40].tolist() == pytest.approx(bins, abs=1e-4)
