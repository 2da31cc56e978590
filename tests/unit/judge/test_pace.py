"""Pace, pauses, silence and what is said twice."""

from __future__ import annotations

from collections.abc import Callable

import judge_speech
import pytest
import torch

from ttstrain.contract.task import Audio
from ttstrain.judge.pace import count_letters, timing
from ttstrain.judge.repeats import count_repeats, find_repeats, text_repeats

RATE = 16_000


@pytest.mark.parametrize("factor", [0.8, 1.3])
def test_stretched_speech_takes_as_much_longer(factor: float) -> None:
    for one in judge_speech.clips("ljspeech"):
        slower = timing(judge_speech.stretched(one.audio, factor))
        assert slower.speech_s / timing(one.audio).speech_s == pytest.approx(factor, abs=0.05)


def test_silence_at_the_edges_is_silence_but_not_pace() -> None:
    audio = judge_speech.clip("LJ001-0043").audio
    padded = timing(Audio(torch.cat([torch.zeros(RATE), audio.wav, torch.zeros(RATE)]), RATE))
    plain = timing(audio)
    assert padded.speech_s == pytest.approx(plain.speech_s, abs=0.1)
    seconds = len(audio.wav) / RATE
    assert padded.silence_share == pytest.approx((plain.silence_share * seconds + 2) / (seconds + 2), abs=0.03)


def test_a_pause_is_measured_where_noise_fills_it() -> None:
    audio = judge_speech.clip("LJ001-0107").audio
    half = len(audio.wav) // 2
    parted = Audio(torch.cat([audio.wav[:half], torch.zeros(RATE), audio.wav[half:]]), RATE)
    plain, noisy = timing(audio), timing(judge_speech.noisy(parted, 0.002))
    assert noisy.pause_share == pytest.approx((plain.pause_share * plain.speech_s + 1) / (plain.speech_s + 1), abs=0.06)


def test_silence_has_no_timing() -> None:
    noise = 1e-4 * torch.randn(RATE, generator=torch.Generator().manual_seed(0))
    assert timing(Audio(torch.zeros(RATE), RATE)) is None
    assert timing(Audio(noise, RATE)) is None
    assert timing(Audio(torch.zeros(0), RATE)) is None


def test_letters_of_any_script_count_and_marks_do_not() -> None:
    assert count_letters("It's 5 o'clock!") == 10
    assert count_letters("桥下垂直。") == 4
    assert count_letters("... —") == 0


def test_natural_speech_says_nothing_twice() -> None:
    for one in judge_speech.clips():
        if not text_repeats(one.text):
            assert count_repeats(one.audio) == 0, one.text


@pytest.mark.parametrize(
    "say_again",
    [lambda a: a, lambda a: judge_speech.stretched(a, 0.92), lambda a: Audio(0.3 * a.wav, RATE)],
    ids=["as it is", "faster", "quieter"],
)
def test_a_stretch_of_a_second_said_twice_counts(say_again: Callable[[Audio], Audio]) -> None:
    """In all sentences but one, where half of the second may be a pause."""
    found = []
    for one in judge_speech.clips("ljspeech"):
        wav = one.audio.wav
        start, end = len(wav) // 4, len(wav) // 4 + RATE
        said = torch.cat([wav[:end], say_again(Audio(wav[start:end], RATE)).wav, wav[end:]])
        found.append(count_repeats(Audio(said, RATE)))
    assert sum(count == 1 for count in found) >= 5, found


def test_where_the_repetition_stands_is_told() -> None:
    wav = judge_speech.clip("LJ001-0107").audio.wav
    said = Audio(torch.cat([wav[:32_000], wav[16_000:32_000], wav[32_000:]]), RATE)
    (found,) = find_repeats(said)
    assert found.lag_s == pytest.approx(1.0, abs=0.1)
    assert found.duration_s == pytest.approx(1.0, abs=0.25)


def test_texts_that_repeat_are_known() -> None:
    assert text_repeats("Some sung out: Tear down the fence, tear down the fence!")
    assert text_repeats("thou also thou also")
    assert not text_repeats("A further development of the Roman letter took place at Venice.")
