"""Opinion scores by DistillMOS fall with noise, and do not fall because a clip is short."""

from __future__ import annotations

import judge_speech
import pytest

from ttstrain.contract.task import Audio
from ttstrain.judge.naturalness import OpinionModel, naturalness, open_naturalness

pytest.importorskip("distillmos", reason="needs ttstrain[judge]")


@pytest.fixture(scope="module")
def model() -> OpinionModel:
    found = open_naturalness()
    assert found is not None
    return found


def test_noise_lowers_the_score_of_every_clip(model: OpinionModel) -> None:
    for one in judge_speech.clips("ljspeech"):
        clean, noisy, noisier = (
            naturalness(audio, model)
            for audio in (one.audio, judge_speech.noisy(one.audio, 0.005), judge_speech.noisy(one.audio, 0.03))
        )
        assert clean > noisy + 0.3 > noisier + 0.3, one.name


def test_a_voice_is_more_natural_than_a_machine(model: OpinionModel) -> None:
    real = [naturalness(one.audio, model) for one in judge_speech.clips("ljspeech")]
    robot = [naturalness(one.audio, model) for one in judge_speech.clips("espeak")]
    assert sum(real) / len(real) > sum(robot) / len(robot)


def test_half_a_clip_scores_as_the_whole(model: OpinionModel) -> None:
    whole = [naturalness(one.audio, model) for one in judge_speech.clips("ljspeech")]
    half = [
        naturalness(Audio(one.audio.wav[: len(one.audio.wav) // 2], 16_000), model)
        for one in judge_speech.clips("ljspeech")
    ]
    assert abs(sum(whole) - sum(half)) / len(whole) < 0.6


def test_too_little_speech_has_no_score(model: OpinionModel) -> None:
    assert naturalness(Audio(judge_speech.clip("LJ001-0043").audio.wav[8_000:14_000], 16_000), model) is None
