"""Pitch by swift-f0, against a tone whose frequency is known and real voices."""

from __future__ import annotations

import judge_speech
import pytest
import torch

from ttstrain.contract.task import Audio
from ttstrain.judge.pitch import SwiftPitch, open_pitch, pitch, semitones

pytest.importorskip("swift_f0", reason="needs ttstrain[judge]")


def glottal(hz: float) -> Audio:
    """Two seconds of a buzz with ten harmonics."""
    time = torch.arange(32_000) / 16_000
    return Audio(0.05 * sum(torch.sin(2 * torch.pi * hz * k * time) / k for k in range(1, 11)), 16_000)


@pytest.mark.parametrize("hz", [90.0, 160.0, 300.0])
def test_a_buzz_has_its_frequency_and_no_spread(hz: float) -> None:
    found = pitch(glottal(hz), SwiftPitch())
    assert found.median_hz == pytest.approx(hz, rel=0.02)
    assert found.spread < 0.5


def test_a_man_speaks_lower_than_a_woman() -> None:
    detector = open_pitch()
    lows = [pitch(one.audio, detector).median_hz for one in judge_speech.clips("2414")]
    highs = [pitch(one.audio, detector).median_hz for one in judge_speech.clips("ljspeech")]
    assert max(lows) < min(highs)


def test_noise_has_no_pitch() -> None:
    noise = 0.1 * torch.randn(32_000, generator=torch.Generator().manual_seed(0))
    assert pitch(Audio(noise, 16_000), SwiftPitch()) is None


def test_an_octave_is_twelve_semitones() -> None:
    assert semitones(440, 220) == 12
