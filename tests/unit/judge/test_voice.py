"""Speaker embeddings: those of Resemblyzer, and they tell real voices apart."""

from __future__ import annotations

from itertools import combinations

import judge_speech
import pytest
import torch

from ttstrain.contract.task import Audio
from ttstrain.judge.voice import centroid, embed, embed_speech, load_encoder, similarity


@pytest.mark.parametrize("name", list(judge_speech.goldens()["resemblyzer 0.1.4"]))
def test_embeddings_are_those_of_resemblyzer(name: str) -> None:
    """Half precision of the weights moves no value by more than 1e-3."""
    golden = torch.tensor(judge_speech.goldens()["resemblyzer 0.1.4"][name])
    assert (embed_speech(judge_speech.clip(name).audio.wav) - golden).abs().max() < 1e-3


def test_every_real_clip_is_nearest_to_its_own_speaker() -> None:
    voices = {name: [embed(one.audio) for one in judge_speech.clips(name)] for name in judge_speech.REAL}
    for speaker, embeddings in voices.items():
        for number, one in enumerate(embeddings):
            rest = [other for place, other in enumerate(embeddings) if place != number]
            own = similarity(one, centroid(rest))
            others = [similarity(one, centroid(them)) for name, them in voices.items() if name != speaker]
            assert own > max(others), (speaker, number, own, others)


def test_two_clips_of_a_speaker_are_more_alike_than_two_of_different_ones() -> None:
    """In the mean by far, and pair by pair in nearly all: below 10 % equal error."""
    said = [(one.speaker, embed(one.audio)) for one in judge_speech.clips(*judge_speech.REAL)]
    same = [similarity(a, b) for (s, a), (t, b) in combinations(said, 2) if s == t]
    other = [similarity(a, b) for (s, a), (t, b) in combinations(said, 2) if s != t]
    assert sum(same) / len(same) > sum(other) / len(other) + 0.15
    threshold = sorted(other)[int(0.9 * len(other))]
    assert sum(value > threshold for value in same) >= 0.9 * len(same)


def test_loudness_and_edges_of_silence_do_not_change_a_voice() -> None:
    audio = judge_speech.clip("LJ001-0043").audio
    silence = torch.zeros(audio.sample_rate)
    quiet = Audio(torch.cat([silence, 0.2 * audio.wav, silence]), audio.sample_rate)
    assert similarity(embed(audio), embed(quiet)) > 0.97


def test_the_sample_rate_does_not_change_a_voice() -> None:
    from torchaudio.functional import resample

    audio = judge_speech.clip("LJ001-0043").audio
    assert similarity(embed(audio), embed(Audio(resample(audio.wav, 16_000, 24_000), 24_000))) > 0.99


@pytest.mark.parametrize("samples", [0, 100, 4_800, 14_000])
def test_too_little_speech_has_no_voice(samples: int) -> None:
    audio = judge_speech.clip("LJ001-0043").audio
    assert embed(Audio(audio.wav[8_000 : 8_000 + samples], audio.sample_rate)) is None


def test_silence_has_no_voice_and_a_speaker_needs_a_clip() -> None:
    assert embed(Audio(torch.zeros(48_000), 16_000)) is None
    with pytest.raises(ValueError, match="at least one"):
        centroid([])


def test_only_the_encoder_ships() -> None:
    assert sum(parameter.numel() for parameter in load_encoder().parameters()) == 1_423_616
