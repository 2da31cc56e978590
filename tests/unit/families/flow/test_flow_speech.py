"""Long texts, prompts and vocoders; that it equals upstream's inference is shown in tests/parity."""

from __future__ import annotations

import math
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import torch
from vocoders import write_bigvgan, write_vocos

from ttstrain.contract.task import Audio, Prompt
from ttstrain.errors import CheckpointError, DataError
from ttstrain.families.flow import silence, speech
from ttstrain.families.flow.config import FlowConfig
from ttstrain.families.flow.task import FlowTask

SMALL = {"dim": 32, "depth": 1, "heads": 1, "dim_head": 32, "text_dim": 16, "conv_layers": 1}


def small_task(**sampling: Any) -> FlowTask:
    mel = sampling.pop("mel", "vocos")
    config = FlowConfig(**SMALL, tokenizer="char", mel=mel, sampling={"steps": 2, "seconds_per_byte": 0.02, **sampling})
    torch.manual_seed(0)
    return FlowTask(config).eval()


def tone(seconds: float, *, level: float = 0.2, rate: int = 24_000) -> Audio:
    time = torch.arange(round(seconds * rate)) / rate
    return Audio(level * torch.sin(2 * math.pi * 220 * time), rate)


# ---------------------------------------------------------------- texts


@pytest.mark.parametrize("max_bytes", [1, 20, 40, 1000])
def test_chunks_lose_no_word_and_stay_short_where_sentences_allow(max_bytes: int) -> None:
    text = "One. Two and three, four; five: six! Seven eight nine ten eleven twelve? 一二三。四五。"
    pieces = speech.chunks(text, max_bytes=max_bytes)
    assert "".join(pieces).replace(" ", "") == text.replace(" ", "")
    longest = max(len(sentence.encode()) for sentence in speech._MARK.split(text))
    assert all(len(piece.encode()) <= max(max_bytes, longest) for piece in pieces)
    assert len(pieces) == (1 if max_bytes == 1000 else len(pieces)) and (max_bytes > 1 or len(pieces) >= 8)


@pytest.mark.parametrize(
    "sentence",
    [
        "आज मौसम बहुत अच्छा है और हम बाहर जा रहे हैं। ",
        "هل تسمعني الآن؟ نعم، أسمعك جيدا؛ ",
        "今日はいい天気、明日は雨、",
        "今天天气很好我们出去走走",
        "สวัสดีครับวันนี้อากาศดีมาก",
        "no marks at all in here ",
    ],
)
def test_a_long_text_of_any_script_is_spoken_in_pieces_that_fit(sentence: str) -> None:
    text = sentence * 40
    pieces = speech.chunks(text, max_bytes=200)
    assert "".join(pieces).replace(" ", "") == text.replace(" ", "")
    assert all(len(piece.encode()) <= 200 for piece in pieces)
    assert all(unicodedata.category(piece[0])[0] != "M" for piece in pieces)
    if "।" in sentence:
        assert all(piece.endswith("।") for piece in pieces)


def test_a_piece_that_cannot_be_cut_is_said_to_be_too_long() -> None:
    notes = small_task().sample(Prompt("a" * 3000)).notes
    assert any("a piece lasts 60 s" in note for note in notes)


def test_a_long_text_is_spoken_in_pieces_that_overlap() -> None:
    text = "This is one sentence. " * 80
    sample = small_task().sample(Prompt(text))
    assert sample.num_chunks == 2
    frames = [speech.num_frames(piece, speech.NO_VOICE, speed=1.0, seconds_per_byte=0.02) for piece in _pieces(text)]
    samples = sum((n - 1) * 256 for n in frames) - int(speech.CROSS_FADE_S * speech.SAMPLE_RATE)
    assert len(sample.audio.wav) == samples
    assert sample.mel is not None and abs(len(sample.mel) * 256 - samples) < 3 * 256


def _pieces(text: str) -> list[str]:
    room = speech.max_bytes(speech.NO_VOICE, speed=1.0, seconds_per_byte=0.02)
    return speech.chunks(text, max_bytes=room)


def test_a_told_duration_is_shared_between_the_pieces() -> None:
    sample = small_task().sample(Prompt("This is one sentence. " * 80, duration_s=25.0))
    assert sample.num_chunks == 2
    assert len(sample.audio.wav) / sample.audio.sample_rate == pytest.approx(25.0, abs=0.05)


def test_an_empty_text_is_refused() -> None:
    with pytest.raises(DataError, match="the text is empty"):
        small_task().sample(Prompt("  \n"))


def test_symbols_that_the_vocab_lacks_are_named() -> None:
    assert small_task().sample(Prompt("Hello there")).notes == ()
    notes = small_task().sample(Prompt("Hello ฿ there", reference=tone(1.0), reference_text="One ក")).notes
    assert notes == ("not in the vocab and read as spaces: `ក`, `฿`",)


# ---------------------------------------------------------------- prompts


@pytest.mark.parametrize(
    ("audio", "text", "why"),
    [
        (tone(1.0, level=0.0), "Silence.", "silent"),
        (tone(1.0, level=0.003), "A hum.", "silent"),
        (Audio(torch.zeros(0), 24_000), "Nothing.", "empty"),
        (Audio(torch.tensor([0.1, math.nan] * 9000), 24_000), "Damage.", "damaged"),
        (tone(1.0), "  ", "no text"),
        (tone(13.0), "Too long, and it has no pause.", "13.0 s"),
    ],
)
def test_prompts_that_cannot_be_used_are_refused(audio: Audio, text: str, why: str) -> None:
    with pytest.raises(DataError, match=why):
        speech.prepare(audio, text)


def test_edges_are_trimmed_and_a_tail_is_put_after() -> None:
    quiet = torch.zeros(24_000)
    voice = speech.prepare(Audio(torch.cat([quiet, tone(1.0).wav, quiet]), 24_000), "One")
    assert voice.seconds == pytest.approx(1.0 + speech.TAIL_S, abs=0.011)
    assert float(voice.wav[-1200:].abs().max()) == 0


@pytest.mark.parametrize(
    ("text", "ended"), [("One", "One. "), ("One.", "One. "), ("One. ", "One. "), ("一。", "一。"), ("One!", "One!. ")]
)
def test_a_reference_text_is_ended_as_upstream_ends_it(text: str, ended: str) -> None:
    assert speech.end_mark(text) == ended


def test_silences_are_found_where_they_are() -> None:
    wav = torch.cat([tone(1.0).wav, torch.zeros(12_000), tone(0.5).wav])
    assert silence.silent_ranges(wav, 24_000, at_least_ms=300, threshold_db=-40) == [(1000, 1500)]
    assert silence.split(wav, 24_000, at_least_ms=300, threshold_db=-40, keep_ms=100) == [(0, 1100), (1400, 2000)]
    assert silence.split(wav, 24_000, at_least_ms=300, threshold_db=-40, keep_ms=1000) == [(0, 1250), (1250, 2000)]
    assert silence.silent_ranges(wav, 24_000, at_least_ms=600, threshold_db=-40) == []
    assert silence.sounding_ranges(10, [(0, 10)]) == []


# ---------------------------------------------------------------- vocoders


@pytest.mark.parametrize(("kind", "name"), [("vocos", "Vocos"), ("bigvgan", "BigVGAN")])
def test_the_vocoder_of_the_recipe_speaks_and_is_named(kind: str, name: str, tmp_path: Path) -> None:
    folder = {"vocos": write_vocos, "bigvgan": write_bigvgan}[kind](tmp_path / kind)
    task = small_task(mel=kind, vocoder=str(folder))
    plain = small_task(mel=kind)
    spoken, rough = task.sample(Prompt("Hello there")), plain.sample(Prompt("Hello there"))
    assert spoken.vocoder == f"{name} ({folder})"
    assert rough.vocoder == f"Griffin-Lim: rougher than {name}"
    assert spoken.audio.wav.shape == rough.audio.wav.shape
    assert not torch.equal(spoken.audio.wav, rough.audio.wav)
    assert task.state_dict().keys() == plain.state_dict().keys()  # it is no part of the model


def test_a_vocoder_of_the_other_mel_is_refused_before_training(tmp_path: Path) -> None:
    task = small_task(vocoder=str(write_bigvgan(tmp_path / "b")))
    with pytest.raises(CheckpointError, match="is BigVGAN"):
        task.prepare_sampling()


def test_the_seed_is_the_recipes_unless_the_prompt_has_one() -> None:
    prompt = Prompt("Hello there")
    third = small_task(seed=3).sample(prompt).audio.wav
    assert torch.equal(small_task().sample(Prompt("Hello there", seed=3)).audio.wav, third)
    assert not torch.equal(small_task().sample(prompt).audio.wav, third)
