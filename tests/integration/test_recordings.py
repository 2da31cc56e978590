"""From long recordings to a data set: `ttstrain prepare --cut`, the review, and training's own view of the result."""

from __future__ import annotations

import csv
import importlib.util
import json
import warnings
from pathlib import Path

import glued
import numpy as np
import pytest
import small_runs
import soundfile
import torch

from ttstrain.data.readers import read_rows

MISSING = [name for name in ("silero_vad", "pyloudnorm", "pocketsphinx") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs the extra `raw`: {', '.join(MISSING)}")


def prepare(*arguments: str | Path, code: int = 0) -> str:
    done = small_runs.ttstrain("prepare", *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    return " ".join((done.stdout + done.stderr).split())


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> tuple[glued.Glued, Path, str]:
    """Return a recording of the packaged voice, the folder it was cut into, and what was printed."""
    folder = tmp_path_factory.mktemp("voice")
    (folder / "raw").mkdir()
    made = glued.glue(read_rows("package:voice").rows[:6], folder / "raw" / "talk.wav", trim=True)
    said = prepare(folder / "raw", "--cut", folder / "clips", "--language", "en", "--speaker", "3080")
    return made, folder / "clips", said


def test_borders_and_words_come_back(voice: tuple[glued.Glued, Path, str]) -> None:
    made, folder, said = voice
    found = glued.compare(made, folder)
    assert found.border_share >= 0.9
    assert found.misplaced_share <= 0.02
    assert "heard as written, by pocketsphinx" in said


def test_the_folder_is_planned_at_once(voice: tuple[glued.Glued, Path, str]) -> None:
    _, folder, _ = voice
    done = small_runs.ttstrain("plan", "f5_new_voice", "--data", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {row.speaker for row in read_rows(folder).rows} == {"3080"}


def test_a_review_drops_and_corrects(voice: tuple[glued.Glued, Path, str], tmp_path: Path) -> None:
    _, folder, _ = voice
    before = [json.loads(line) for line in (folder / "clips.jsonl").read_text().splitlines()]
    with (tmp_path / "review.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "action", "speaker", "text"])
        writer.writerow([before[0]["id"], "drop", "", before[0]["text"]])
        writer.writerow([before[1]["id"], "keep", "anna", "something else was said here"])
    said = prepare(folder, "--review", tmp_path / "review.csv")
    assert f"2 of {len(before)} clips changed" in said
    rows = read_rows(folder).rows
    assert len(rows) == len(before) - 1
    assert (rows[0].speaker, rows[0].text) == ("anna", "something else was said here")


def test_clips_are_not_cut_over_others(voice: tuple[glued.Glued, Path, str], tmp_path: Path) -> None:
    _, folder, _ = voice
    assert "is not empty" in prepare(folder, "--cut", folder, code=3)
    assert "within the folder" in prepare(folder / "clips", "--cut", folder / "clips" / "more", code=3)


def test_options_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    assert "add `--cut FOLDER`" in prepare(tmp_path, "--longest", "9", code=2)
    assert "leave no choice" in prepare(tmp_path, "--cut", tmp_path / "x", "--longest", "3", code=2)
    assert "do not go together" in prepare(tmp_path, "--cut", tmp_path / "x", "--review", tmp_path / "y", code=2)


# ---------------------------------------------------------------- bad recordings


def hum(seconds: float, rate: int = 16_000) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    t = np.arange(int(seconds * rate)) / rate
    return sum(0.1 * np.sin(2 * np.pi * f * t) * (1 + np.sin(np.pi * t)) for f in (220, 277, 330, 440))


def test_recordings_without_speech_are_named_and_refused(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    soundfile.write(raw / "silence.wav", np.zeros(160_000), 16_000)
    soundfile.write(raw / "music.flac", hum(10), 16_000)
    (raw / "broken.mp3").write_bytes(b"0123" * 2000)
    said = prepare(raw, "--cut", tmp_path / "out", code=3)
    assert "no clip could be cut from the 3 recordings" in said
    assert "silence.wav`: it is silent" in said
    assert "music.flac`: nobody speaks in it" in said
    assert "broken.mp3` cannot be used" in said
    assert "holds no recordings" in prepare(tmp_path / "out", "--cut", tmp_path / "other", code=3)
    assert "there is no" in prepare(tmp_path / "gone", "--cut", tmp_path / "other", code=3)


def test_a_text_of_another_recording_is_not_used_and_clipping_is_told(
    voice: tuple[glued.Glued, Path, str], tmp_path: Path
) -> None:
    _, folder, _ = voice
    raw = tmp_path / "raw"
    raw.mkdir()
    samples, rate = soundfile.read(folder.parent / "raw" / "talk.wav", stop=15 * 16_000)
    soundfile.write(raw / "talk.wav", np.clip(20 * samples, -1, 1), rate)
    (raw / "talk.txt").write_text("Quarterly revenue projections considered infrastructure spending. " * 8)
    said = prepare(raw, "--cut", tmp_path / "out")
    assert "what is said is not in `talk.txt`" in said
    assert "cut off at full scale in" in said
    assert "no clip has a text to train on yet" in said
    assert read_texts(tmp_path / "out") == {""}


def test_without_a_text_pocketsphinx_writes_drafts_that_are_not_trained_on(
    voice: tuple[glued.Glued, Path, str], tmp_path: Path
) -> None:
    _, folder, _ = voice
    samples, rate = soundfile.read(folder.parent / "raw" / "talk.wav", stop=6 * 16_000)
    soundfile.write(tmp_path / "talk.wav", samples, rate)
    said = prepare(tmp_path / "talk.wav", "--cut", tmp_path / "out", "--transcriber", "pocketsphinx")
    assert "have a rough draft as text" in said
    assert "" not in read_texts(tmp_path / "out")
    assert (tmp_path / "out" / "metadata.csv").read_text() == "file_name,text,speaker,language\n"


def read_texts(folder: Path) -> set[str]:
    return {json.loads(line)["text"] for line in (folder / "clips.jsonl").read_text().splitlines()}


# ---------------------------------------------------------------- against the package, and on real data


def test_probabilities_of_speech_are_those_of_the_package(voice: tuple[glued.Glued, Path, str]) -> None:
    from ttstrain.recordings.speech import speech_probabilities

    _, folder, _ = voice
    samples, _ = soundfile.read(folder.parent / "raw" / "talk.wav", stop=8 * 16_000 + 100, dtype="float32")
    wav = torch.from_numpy(samples)
    spec = importlib.util.find_spec("silero_vad")
    assert spec is not None
    assert spec.origin is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        net = torch.jit.load(str(Path(spec.origin).parent / "data" / "silero_vad.jit"))
    net.reset_states()
    with torch.no_grad():
        expected = net.audio_forward(wav[None], 16_000)[0]
    assert torch.allclose(speech_probabilities(wav), expected, atol=1e-4)


@pytest.mark.slow
def test_glued_sentences_of_lj_come_back(shared_data: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    made = glued.glue(read_rows(shared_data / "ljspeech-mini").rows, tmp_path / "raw" / "lj.wav")
    prepare(tmp_path / "raw", "--cut", tmp_path / "clips")
    found = glued.compare(made, tmp_path / "clips")
    assert found.border_share >= 0.95
    assert found.misplaced_share <= 0.02
