"""All figures of an utterance at once, and what is said where one cannot be measured."""

from __future__ import annotations

import judge_speech
import pytest
import torch

from ttstrain.contract.task import Audio
from ttstrain.judge import naturalness, pitch, recognise
from ttstrain.judge.listen import Ears, Target, listen

RATE = 16_000
DEAF = Ears()  # what needs no extra


@pytest.fixture(scope="module")
def target() -> Target:
    return Target.of([(one.audio, one.text) for one in judge_speech.clips("ljspeech")], ears=DEAF)


def test_another_voice_that_says_the_words_is_seen_as_that(target: Target) -> None:
    for one in judge_speech.clips("flite"):
        found = listen(one.audio, one.text, target=target, ears=DEAF)
        assert found.voice is not None and target.voice_of_recordings is not None
        assert found.voice < target.voice_of_recordings - 0.1
        assert (found.words, found.repeats, found.too_short, found.too_long) == (1.0, 0.0, 0.0, 0.0)


def test_the_own_voice_with_the_wrong_words_is_seen_as_that(target: Target) -> None:
    said = judge_speech.clips("ljspeech")
    for one, other in zip(said, (*said[1:], said[0]), strict=True):
        found = listen(one.audio, other.text, target=target, ears=DEAF)
        assert found.voice > 0.85
        assert found.words == 0.0
        assert found.words_margin < 0


def test_pace_is_relative_to_the_sentences_own_recording(target: Target) -> None:
    one = judge_speech.clip("LJ001-0107")
    assert listen(one.audio, one.text, target=target, ears=DEAF).pace == pytest.approx(1.0)
    slow = listen(judge_speech.stretched(one.audio, 1.3), one.text, target=target, ears=DEAF)
    assert slow.pace == pytest.approx(1.3, abs=0.05)
    assert listen(judge_speech.stretched(one.audio, 2.3), one.text, target=target, ears=DEAF).too_long == 1.0


def test_a_sentence_without_a_recording_has_voice_and_pace_but_no_words(target: Target) -> None:
    one = judge_speech.clip("LJ001-0107")
    found = listen(one.audio, "Some other sentence of about that length, I guess", target=target, ears=DEAF)
    assert found.words is None and found.mcd is None
    assert found.voice is not None and found.pace == pytest.approx(1.0, abs=0.5)
    assert any("words are not measured" in note for note in found.notes)


def test_a_reference_synthesis_serves_as_candidates_but_not_as_the_voice() -> None:
    said = [(one.audio, one.text) for one in judge_speech.clips("espeak")]
    speaker = judge_speech.clips("1688")
    target = Target.of([(one.audio, one.text) for one in speaker], ears=DEAF, sentences=said)
    alone = Target.of([(one.audio, one.text) for one in speaker], ears=DEAF)
    assert torch.equal(target.voice, alone.voice)
    assert (len(target.recordings), target.seconds_per_letter) == (9, alone.seconds_per_letter)
    assert "whether the right words are heard is not measured" in alone.notes[0]
    one = judge_speech.clip("LJ001-0160-flite")
    assert listen(one.audio, one.text, target=target, ears=DEAF).words == 1.0


@pytest.mark.parametrize("wav", [torch.zeros(3 * RATE), 1e-4 * torch.ones(3 * RATE)])
def test_of_silence_only_silence_is_measured(target: Target, wav: torch.Tensor) -> None:
    found = listen(Audio(wav, RATE), "anything", target=target, ears=DEAF)
    assert found.measured() == {"silence_share": 1.0, "too_short": 1.0}
    assert found.notes == ("the clip is silent: nothing else is measured",)


@pytest.mark.parametrize("wav", [torch.zeros(0), torch.full((RATE,), torch.nan), torch.zeros(3 * RATE)])
def test_a_recorded_sentence_of_which_nothing_is_heard_counts_as_lost(target: Target, wav: torch.Tensor) -> None:
    found = listen(Audio(wav, RATE), judge_speech.clip("LJ001-0107").text, target=target, ears=DEAF)
    assert found.measured() == {"words": 0.0, "words_margin": -1.0, "silence_share": 1.0, "too_short": 1.0}
    assert found.notes[0].endswith("the sentence counts as lost")


@pytest.mark.parametrize(("factor", "why"), [(0.45, "far too short"), (2.3, "far too long")])
def test_a_sentence_of_far_the_wrong_length_counts_as_lost(target: Target, factor: float, why: str) -> None:
    one = judge_speech.clip("LJ001-0107")
    found = listen(judge_speech.stretched(one.audio, factor), one.text, target=target, ears=DEAF)
    assert found.words == 0.0 and found.words_margin <= 0
    assert f"{why}: the sentence counts as lost" in found.notes


def test_too_little_speech_for_a_voice_counts_as_lost_unless_the_recording_is_as_short(target: Target) -> None:
    one = judge_speech.clip("LJ001-0107")
    short = Audio(one.audio.wav[: int(0.9 * one.audio.sample_rate)], one.audio.sample_rate)
    assert listen(short, one.text, target=target, ears=DEAF).words == 0.0
    others = [(other.audio, other.text) for other in judge_speech.clips("ljspeech") if other.name != one.name]
    own = Target.of([(short, "a short one"), *others], ears=DEAF)
    found = listen(short, "a short one", target=own, ears=DEAF)
    assert (found.voice, found.words) == (None, 1.0)


@pytest.mark.parametrize("seconds", [0.0005, 0.02, 0.06, 0.4, 0.9])
@pytest.mark.parametrize("rate", [24_000, 32_000])
def test_of_noise_too_short_for_an_embedding_there_is_no_voice(target: Target, seconds: float, rate: int) -> None:
    noise = 0.3 * torch.randn(round(seconds * rate), generator=torch.Generator().manual_seed(0))
    found = listen(Audio(noise, rate), judge_speech.clip("LJ001-0107").text, target=target, ears=DEAF)
    assert (found.voice, found.words, found.too_short) == (None, 0.0, 1.0)
    assert found.notes


def test_a_snippet_has_notes_instead_of_figures(target: Target) -> None:
    one = judge_speech.clip("LJ001-0107")
    found = listen(Audio(one.audio.wav[8_000:12_800], RATE), one.text, target=target, ears=DEAF)
    assert (found.voice, found.too_short) == (None, 1.0)
    assert any("too short to tell the voice" in note for note in found.notes)


def test_what_is_missing_is_said_once_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for package in ("distillmos", "swift_f0", "pocketsphinx"):
        monkeypatch.setitem(sys.modules, package, None)
    ears = Ears.open(language="en")
    assert ears.notes == (recognise.MISSING, naturalness.MISSING, pitch.MISSING)
    assert all("`ttstrain[judge]`" in note for note in ears.notes)
    one = judge_speech.clip("LJ001-0107")
    target = Target.of([(one.audio, one.text)], ears=ears)
    found = listen(one.audio, one.text, target=target, ears=ears)
    assert (found.cer, found.mos, found.f0_hz) == (None, None, None)


def test_what_is_installed_is_heard_with() -> None:
    class Mute:
        name, relative = "a mute", True

        def transcribe(self, audio: Audio) -> str:
            return ""

    ears = Ears(recogniser=Mute())
    one = judge_speech.clip("LJ001-0107")
    target = Target.of([(one.audio, one.text)], ears=ears)
    assert listen(one.audio, one.text, target=target, ears=ears).cer == 1.0
    digits = listen(one.audio, "in 1469", target=target, ears=ears)
    assert any("the text has digits" in note for note in digits.notes)
