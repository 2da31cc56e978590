"""A sentence's own recording is the nearest, whoever says it."""

from __future__ import annotations

from collections.abc import Callable

import judge_speech
import pytest
import torch

from ttstrain.contract.task import Audio
from ttstrain.judge.words import content, retrieve

SENTENCES = judge_speech.clips("ljspeech")


def recordings() -> list[torch.Tensor]:
    return [content(one.audio) for one in SENTENCES]


@pytest.mark.parametrize("voice", ["espeak", "flite"])
def test_the_own_sentence_of_another_voice_is_the_nearest(voice: str) -> None:
    candidates = recordings()
    for own, one in enumerate(judge_speech.clips(voice)):
        found = retrieve(content(one.audio), candidates, own=own)
        assert (found.rank, found.num_candidates) == (1, 6), one.name
        assert found.margin > 0


@pytest.mark.parametrize("change", [lambda a: judge_speech.noisy(a, 0.01), lambda a: judge_speech.stretched(a, 1.25)])
def test_noise_and_pace_do_not_change_the_words(change: Callable[[Audio], Audio]) -> None:
    candidates = recordings()
    spoken = [content(change(one.audio)) for one in judge_speech.clips("flite")]
    assert [retrieve(one, candidates, own=own).rank for own, one in enumerate(spoken)] == [1] * 6


def test_the_wrong_sentence_is_seen() -> None:
    candidates = recordings()
    for own, one in enumerate(judge_speech.clips("flite")):
        found = retrieve(content(one.audio), candidates, own=(own + 1) % 6)
        assert found.rank > 1
        assert found.margin < 0


def test_speech_backwards_is_no_longer_its_sentence() -> None:
    candidates = recordings()
    backwards = [content(Audio(one.audio.wav.flip(0), one.audio.sample_rate)) for one in judge_speech.clips("flite")]
    hits = sum(retrieve(one, candidates, own=own).rank == 1 for own, one in enumerate(backwards))
    assert hits <= 3


def test_a_recording_is_at_no_distance_from_itself() -> None:
    candidates = recordings()
    assert retrieve(candidates[2], candidates, own=2).margin > 0.99


def test_too_little_speech_has_no_content() -> None:
    audio = SENTENCES[0].audio
    assert content(Audio(audio.wav[8_000:11_000], 16_000)) is None
    assert content(Audio(torch.zeros(16_000), 16_000)) is None
    assert content(Audio(torch.zeros(0), 16_000)) is None


def test_one_candidate_is_no_choice() -> None:
    with pytest.raises(ValueError, match="two candidates"):
        retrieve(recordings()[0], recordings()[:1], own=0)
