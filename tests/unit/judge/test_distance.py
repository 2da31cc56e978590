"""Mel-cepstral distortion: the number of an independent package."""

from __future__ import annotations

import judge_speech
import pytest
import torch

from ttstrain.contract.task import Audio
from ttstrain.judge.distance import DB, cepstral_distance, log_mel, package_distance

PAIRS = judge_speech.goldens()["mel-cepstral-distance 0.0.4"]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair["b"])
def test_it_is_what_the_package_measures(pair: dict[str, object]) -> None:
    a, b = (log_mel(judge_speech.clip(pair[side]).audio.wav) for side in "ab")
    assert package_distance(a, b) == pytest.approx(pair["distance"], rel=1e-3)


def test_a_clip_is_at_no_distance_from_itself() -> None:
    audio = judge_speech.clip("LJ001-0043").audio
    assert cepstral_distance(audio, audio) == 0


def test_the_same_sentence_is_nearer_than_another() -> None:
    recorded, said = judge_speech.clips("ljspeech"), judge_speech.clips("flite")
    own = [cepstral_distance(a.audio, b.audio) for a, b in zip(recorded, said, strict=True)]
    other = [cepstral_distance(a.audio, b.audio) for a, b in zip(recorded, (*said[1:], said[0]), strict=True)]
    assert all(a < b for a, b in zip(own, other, strict=True))


def test_a_level_in_one_band_is_counted_in_db() -> None:
    """A raised cosine over the bands of 6 dB peak, which only coefficient 4 holds, has an RMS of 6 / sqrt(2) dB."""
    flat = torch.zeros(30, 20, dtype=torch.float64)
    bands = torch.arange(20, dtype=torch.float64)
    ripple = 0.6 * torch.cos(torch.pi * 4 * (bands + 0.5) / 20)  # in log10
    assert package_distance(flat, flat + ripple) * DB == pytest.approx(6 / 2**0.5)


def test_silence_has_no_distance() -> None:
    audio = judge_speech.clip("LJ001-0043").audio
    assert cepstral_distance(audio, Audio(torch.zeros(16_000), 16_000)) is None
