"""Character errors, and which recogniser is opened for which language."""

from __future__ import annotations

from pathlib import Path

import judge_speech
import pytest
from tiny_whisper import save_tiny_whisper

from ttstrain.errors import CheckpointError
from ttstrain.judge import recognise
from ttstrain.judge.recognise import character_errors, edits, has_digits, open_recogniser


@pytest.mark.parametrize(
    ("a", "b", "count"), [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("abc", "abc", 0), ("ab", "ba", 2)]
)
def test_edits_are_counted(a: str, b: str, count: int) -> None:
    assert edits(a, b) == count


def test_only_letters_count() -> None:
    assert character_errors("It's time, isn’t it?", "its TIME isnt it") == 0
    assert character_errors("Straße", "strasse") == 0
    assert character_errors("桥下，垂直", "桥下垂直") == 0
    assert character_errors("abcd", "abce") == 0.25
    assert character_errors("...", "what") is None


def test_digits_are_known() -> None:
    assert has_digits("in 1469") and not has_digits("one")


def test_a_language_without_a_recogniser_is_said() -> None:
    found = open_recogniser("de-DE")
    assert found.recogniser is None
    assert "no recogniser for `de`" in found.note
    assert "language is not known" in open_recogniser("").note


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    found = open_recogniser("en_US")
    assert found.recogniser is None
    assert "install `ttstrain[judge]`" in found.note


def test_a_folder_without_a_model_is_refused(tmp_path: object) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(CheckpointError, match="cannot be opened"):
        open_recogniser("en", model=str(tmp_path))


def test_sphinx_hears_the_own_text_best() -> None:
    pytest.importorskip("pocketsphinx", reason="needs ttstrain[judge]")
    sphinx = recognise.Pocketsphinx()
    said = judge_speech.clips("ljspeech")[:3]
    heard = [sphinx.transcribe(one.audio) for one in said]
    for number, one in enumerate(said):
        errors = [character_errors(one.text, transcript) for transcript in heard]
        assert errors[number] < 0.6 < min(errors[:number] + errors[number + 1 :])
    assert [sphinx.transcribe(one.audio) for one in reversed(said)] == heard[::-1]  # whatever it heard before


def test_a_whisper_of_english_alone_is_given_no_language(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = save_tiny_whisper(tmp_path / "net")
    settings = transformers.GenerationConfig.from_pretrained(folder)
    settings.is_multilingual = False
    settings.save_pretrained(folder)
    recogniser = open_recogniser("en", model=str(folder)).recogniser
    assert recogniser is not None
    assert isinstance(recogniser.transcribe(judge_speech.clips("ljspeech")[0].audio), str)


def test_a_language_that_whisper_lacks_is_refused_before_anything_is_said(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(CheckpointError, match="does not know the language `xx`"):
        open_recogniser("xx", model=str(save_tiny_whisper(tmp_path / "net")))
