"""The contrast of speech ranks recordings above what is blurred, whoever speaks and however loud."""

from __future__ import annotations

import statistics

import judge_speech
import pytest
import torch
import torch.nn.functional as F

from ttstrain.contract.task import Audio
from ttstrain.judge.contrast import contrast
from ttstrain.judge.distance import spectrum
from ttstrain.judge.ears import Ears
from ttstrain.judge.listen import listen
from ttstrain.judge.rule import LEAST_CONTRAST
from ttstrain.judge.target import Target


def measure(audio: Audio) -> float | None:
    found = spectrum(audio)
    return None if found is None else contrast(found)


def blurred(audio: Audio, frames: int) -> Audio:
    """Average the magnitudes of a clip over some frames of 8 ms, as a net does that does not know what comes when."""
    window = torch.hann_window(512)
    found = torch.stft(audio.wav, 512, 128, window=window, return_complex=True)  # (bins, frames)
    averaged = F.avg_pool1d(found.abs()[None], frames, stride=1, padding=frames // 2, count_include_pad=False)[0]
    return Audio(torch.istft(torch.polar(averaged, found.angle()), 512, 128, window=window), audio.sample_rate)


@pytest.mark.parametrize("speaker", judge_speech.REAL)
def test_the_recordings_of_a_speaker_agree_and_blurred_ones_are_told_apart(speaker: str) -> None:
    clips = judge_speech.clips(speaker)
    target = Target.of([(one.audio, one.text) for one in clips], ears=Ears())
    for one in clips:
        recorded = listen(one.audio, one.text, target=target, ears=Ears()).contrast
        assert recorded is not None and 0.8 < recorded < 1.25
        spoiled = listen(blurred(one.audio, 121), one.text, target=target, ears=Ears()).contrast
        assert spoiled is not None and spoiled < LEAST_CONTRAST


def test_the_more_is_averaged_the_less_contrast() -> None:
    audio = judge_speech.clip("LJ001-0107").audio
    found = [measure(audio), *(measure(blurred(audio, frames)) for frames in (15, 45, 121))]
    assert found == sorted(found, reverse=True) and len(set(found)) == 4


def test_the_level_and_pauses_do_not_count() -> None:
    audio = judge_speech.clip("LJ001-0107").audio
    plain = measure(audio)
    quiet = Audio(0.1 * audio.wav, audio.sample_rate)
    longer = Audio(torch.cat([audio.wav, torch.zeros(audio.sample_rate), audio.wav]), audio.sample_rate)
    assert measure(quiet) == pytest.approx(plain, rel=1e-6)
    assert measure(longer) == pytest.approx(plain, rel=0.02)


def test_noise_and_a_tone_have_hardly_any() -> None:
    usual = statistics.fmean(measure(one.audio) or 0.0 for one in judge_speech.clips("ljspeech"))
    rate = 16_000
    noise = torch.randn(3 * rate, generator=torch.Generator().manual_seed(0))
    tone = torch.sin(2 * torch.pi * 200 * torch.arange(3 * rate) / rate)
    for wav in (0.1 * noise, tone + 1e-3 * noise):
        assert (measure(Audio(wav, rate)) or 0.0) < 0.5 * usual


def test_of_too_little_speech_there_is_none() -> None:
    audio = judge_speech.clip("LJ001-0107").audio
    assert measure(Audio(audio.wav[: audio.sample_rate // 5], audio.sample_rate)) is None
