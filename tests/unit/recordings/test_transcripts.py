"""Where the texts of clips come from, and what is said about it."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_whisper
import torch

from ttstrain.errors import CheckpointError, DataError
from ttstrain.recordings.transcripts import open_source, transcribe

GERMAN = (
    "Der Herbst kommt früh in diesem Jahr, sagte sie leise. Die Blätter fallen schon auf die nasse Straße. Wir gehen."
)
WAVS = [0.1 * torch.randn(32_000), 0.1 * torch.randn(48_000), 0.1 * torch.randn(16_000)]
SPEECH_S = [3.0, 3.0, 0.6]


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_whisper.save_tiny_whisper(tmp_path_factory.mktemp("whisper")))


def test_whisper_writes_the_texts(whisper: str) -> None:
    found = transcribe(WAVS, SPEECH_S, text=None, source=open_source("de", whisper))
    assert [clip.origin for clip in found.clips] == ["recogniser"] * 3
    assert all(clip.text for clip in found.clips)


def test_whisper_listens_for_a_text_and_says_that_it_is_another(whisper: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(GERMAN, encoding="utf-8")
    found = transcribe(WAVS, SPEECH_S, text=tmp_path / "a.txt", source=open_source("de", whisper))
    assert [clip.text for clip in found.clips] == [""] * 3
    assert "what is said is not in `a.txt`" in found.told[0]


def test_a_language_that_nothing_hears_is_divided_by_duration_and_each_clip_says_so(tmp_path: Path) -> None:
    pytest.importorskip("pocketsphinx", reason="its dictionary tells whether a text is English")
    (tmp_path / "a.txt").write_text(GERMAN, encoding="utf-8")
    found = transcribe(WAVS, SPEECH_S, text=tmp_path / "a.txt", source=open_source("", ""))
    assert [clip.text for clip in found.clips] == [
        "Der Herbst kommt früh in diesem Jahr, sagte sie leise.",
        "Die Blätter fallen schon auf die nasse Straße.",
        "Wir gehen.",
    ]
    assert all("by duration" in clip.origin and "by duration alone" in clip.notes[0] for clip in found.clips)
    assert "check every clip" in found.told[0]


def test_a_text_that_takes_far_longer_than_the_speech_is_another(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(GERMAN * 10, encoding="utf-8")
    found = transcribe(WAVS, SPEECH_S, text=tmp_path / "a.txt", source=open_source("de", ""))
    assert not any(clip.text for clip in found.clips)
    assert "it is the text of another recording" in found.told[0]


def test_without_anything_clips_have_no_text_and_it_is_said() -> None:
    found = transcribe(WAVS, SPEECH_S, text=None, source=open_source("", ""))
    assert not any(clip.text for clip in found.clips)
    assert "`--transcriber`" in found.told[0]


def test_what_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="hears English"):
        open_source("de", "pocketsphinx")
    with pytest.raises(CheckpointError, match="cannot be opened"):
        open_source("de", str(tmp_path))
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="UTF-8"):
        transcribe(WAVS, SPEECH_S, text=tmp_path / "a.txt", source=open_source("de", ""))
    (tmp_path / "b.txt").write_text(" - ", encoding="utf-8")
    found = transcribe(WAVS, SPEECH_S, text=tmp_path / "b.txt", source=open_source("de", ""))
    assert "holds no words" in found.told[0]


def test_a_text_in_other_letters_than_english_is_divided_by_duration(tmp_path: Path) -> None:
    pytest.importorskip("pocketsphinx", reason="it hears English")
    text = "Осень в этом году пришла рано, тихо сказала она. Листья уже падают на мокрую улицу. Мы идём."
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    found = transcribe(WAVS, SPEECH_S, text=tmp_path / "a.txt", source=open_source("en", ""))
    assert {clip.origin for clip in found.clips} == {"text file, by duration"}
