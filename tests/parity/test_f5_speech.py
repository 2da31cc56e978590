"""What upstream's inference does around the net: prompt, chunks, durations, texts, levels and joints.

The goldens come from `scripts/make_speech_goldens.py`, run with f5-tts 1.1.22.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from ttstrain.contract.task import Audio
from ttstrain.errors import DataError
from ttstrain.families.flow import speech
from ttstrain.families.flow.text import tokenize

GOLDENS = json.loads((Path(__file__).parent / "data" / "speech.json").read_text(encoding="utf-8"))
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "make_speech_goldens.py"
TAIL_SAMPLES = 2  # pydub makes its silence at 11,025 Hz and resamples it, which loses a sample or two
SECONDS_PER_BYTE = 0.07  # not read where there is a voice
CUT = {"no_pause", "short_pauses", "long_pauses"}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_speech_goldens", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def record(script: ModuleType, name: str) -> Audio:
    wav, rate = script.recording(name)
    return Audio(wav.float(), rate)


@pytest.mark.parametrize("name", sorted(GOLDENS["prompts"].keys() - CUT))
def test_a_prompt_is_prepared_as_upstream_does(name: str, script: ModuleType) -> None:
    golden = GOLDENS["prompts"][name]
    reference = record(script, name)
    voice = speech.prepare(reference, "Some words")
    assert voice.text == golden["text"]
    assert voice.notes == ()
    assert voice.seconds * reference.sample_rate == pytest.approx(golden["samples"], abs=TAIL_SAMPLES + 1)
    energy = float((voice.wav.double() * voice.level).square().sum()) * reference.sample_rate / speech.SAMPLE_RATE
    assert energy == pytest.approx(golden["sum"], rel=1e-3)


@pytest.mark.parametrize(
    ("name", "text", "kept"),
    [
        ("short_pauses", "a" * 40 + ", " + "b" * 35 + ", " + "c" * 30 + ". " + "d" * 40, "a" * 40 + ", " + "b" * 35),
        ("long_pauses", "a" * 40 + ". " + "b" * 35 + ". " + "c" * 50, "a" * 40 + ". " + "b" * 35 + "."),
    ],
)
def test_a_long_prompt_is_cut_where_upstream_cuts_it_and_its_text_with_it(
    name: str, text: str, kept: str, script: ModuleType
) -> None:
    reference = record(script, name)
    voice = speech.prepare(reference, text)
    assert voice.text.startswith(kept) and "d" not in voice.text and len(voice.text) < len(text)
    assert voice.seconds * reference.sample_rate == pytest.approx(GOLDENS["prompts"][name]["samples"], abs=3)
    assert "cut" in voice.notes[0]


def test_a_long_prompt_whose_text_cannot_be_cut_is_refused(script: ModuleType) -> None:
    with pytest.raises(DataError, match=r"14\.0 s"):
        speech.prepare(record(script, "no_pause"), "One, two, three, four.")
    with pytest.raises(DataError, match="no pause could be matched"):
        speech.prepare(record(script, "short_pauses"), "no marks in this text at all")


@pytest.mark.parametrize("golden", GOLDENS["spoken"], ids=[each["text"][:12] for each in GOLDENS["spoken"]])
def test_texts_durations_and_joints_are_upstreams(golden: dict[str, Any], script: ModuleType) -> None:
    given = next(spoken for spoken, text in script.TEXTS if text == golden["text"])
    voice = speech.prepare(record(script, "quiet"), given)
    assert voice.text == golden["reference_text"]
    pace = {"speed": golden["speed"], "seconds_per_byte": SECONDS_PER_BYTE}
    room = speech.max_bytes(voice, **pace)
    pieces = speech.chunks(golden["text"], max_bytes=room)
    if any(len(piece.encode()) > room for piece in golden["chunks"]):
        assert len(pieces) > len(golden["chunks"])  # upstream speaks it in one piece, longer than the net was taught
        assert " ".join(pieces) == " ".join(golden["chunks"])
        pieces = golden["chunks"]
    assert pieces == golden["chunks"]
    frames = [speech.num_frames(piece, voice, **pace) for piece in pieces]
    asked = [
        ("|".join(tokenize(voice.prefix + piece, kind="pinyin")), voice.num_frames + new)
        for piece, new in zip(pieces, frames, strict=True)
    ]
    assert sorted(asked) == sorted((each["text"], each["duration"]) for each in golden["asked"])
    ramps = [torch.arange(new).add(voice.num_frames).repeat_interleave(256) / 1000 * voice.level for new in frames]
    wav = speech.cross_fade(ramps)
    assert len(wav) == golden["samples"]
    sampled = wav[:: max(1, len(wav) // 60)]
    assert torch.allclose(sampled, torch.tensor(golden["wav"]), rtol=1e-4)
