from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ttstrain.recordings.measures import LoudnessMeter, sound_of
from ttstrain.recordings.speech import FRAME, RATE, Stretch, stretches
from ttstrain.recordings.voices import group

SPOKEN = torch.cat([torch.zeros(100), torch.ones(100), torch.zeros(100)])  # frames


def wav_with(pause_level: float, speech_level: float = 0.1) -> torch.Tensor:
    levels = torch.where(SPOKEN > 0, speech_level, pause_level).repeat_interleave(FRAME)
    return levels * torch.randn(len(levels))


def test_snr_is_the_distance_of_speech_to_pauses() -> None:
    part = Stretch(100 * FRAME / RATE, 200 * FRAME / RATE)
    assert sound_of(wav_with(0.01), SPOKEN).snr_db(part) == pytest.approx(20, abs=0.3)
    assert sound_of(wav_with(0.05), SPOKEN).snr_db(part) == pytest.approx(6, abs=0.3)
    assert sound_of(wav_with(0.0), SPOKEN).snr_db(part) is None  # digital silence tells nothing of the noise


def test_loud_sound_without_speech_is_counted() -> None:
    assert sound_of(wav_with(0.05), SPOKEN).loud_share() == pytest.approx(194 / 300)  # but for the frames beside speech
    assert sound_of(wav_with(0.001), SPOKEN).loud_share() == 0
    assert sound_of(torch.zeros(300 * FRAME), torch.zeros(300)).is_silent


def test_loudness_is_that_of_the_standard() -> None:
    pytest.importorskip("pyloudnorm", reason="needs the extra `raw`")
    t = torch.arange(2 * RATE) / RATE
    sine = torch.sin(2 * torch.pi * 997 * t)
    meter = LoudnessMeter()
    loud = meter.lufs(sine)
    assert loud is not None
    assert loud == pytest.approx(-3.01, abs=0.1)  # ITU-R BS.1770-4, annex 1: 0 dBFS at 997 Hz, one channel
    quiet = meter.lufs(sine / 10)
    assert quiet is not None
    assert loud - quiet == pytest.approx(20, abs=0.01)
    assert meter.lufs(sine[:1000]) is None
    assert meter.lufs(torch.zeros(RATE)) is None


def test_stretches_begin_and_end_at_different_probabilities() -> None:
    values = [0.1, 0.4, 0.6, 0.4, 0.4, 0.9, 0.3, 0.45, 0.1, 0.9, 0.1, 0.9, 0.9, 0.9, 0.9]
    found = stretches(torch.tensor(values))
    step = FRAME / RATE
    assert [(round(one.start_s / step), round(one.end_s / step)) for one in found] == [(2, 6), (11, 15)]


# ---------------------------------------------------------------- voices


def voices(*counts: int, spread: float = 0.3) -> list[torch.Tensor | None]:
    found: list[torch.Tensor | None] = []
    for count in counts:
        centre = F.normalize(torch.rand(256) * (torch.rand(256) > 0.5), dim=0)
        noise = (torch.randn(count, 256) * spread / 16).abs()
        found += list(F.normalize(centre + noise, dim=1))
    return found


def test_one_voice_is_one_voice() -> None:
    found = group([*voices(20), None])
    assert found.count == 1
    assert found.of_clips == [*[0] * 20, None]


def test_two_voices_are_told_apart_the_more_frequent_first() -> None:
    found = group(voices(6, 14))
    assert found.count == 2
    assert found.of_clips == [*[1] * 6, *[0] * 14]


def test_a_single_odd_clip_is_no_speaker() -> None:
    found = group(voices(20, 1))
    assert found.count == 1
    assert found.of_clips == [*[0] * 20, None]


def test_without_voices_there_are_none() -> None:
    assert group([None, None]).of_clips == [None, None]
