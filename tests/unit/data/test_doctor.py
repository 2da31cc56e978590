"""The doctor's findings are the audit's, worst first, each with what to do."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

import ttstrain
from ttstrain.cli.main import app
from ttstrain.data import advice
from ttstrain.data.audit import audit
from ttstrain.data.doctor import diagnose
from ttstrain.data.readers import read_rows
from ttstrain.recipe.schema import DataConfig

run = CliRunner().invoke
SENTENCE = "the quick brown fox jumps over the lazy dog again"
RATE = 16_000


def speak(path: Path, *, seconds: float = 3.0, seed: int = 0, level: float = 0.3) -> None:
    """Write noise whose loudness changes as that of syllables does."""
    time = np.arange(int(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).standard_normal(len(time))
    sound = level * 0.3 * noise * (0.02 + np.abs(np.sin(2 * np.pi * 2 * time)))
    soundfile.write(path, sound, RATE, subtype="PCM_16")


def dataset(folder: Path, *, clips: int, extra: tuple[str, ...] = ()) -> Path:
    folder.mkdir()
    for n in range(clips):
        speak(folder / f"{n}.wav", seed=n)
    rows = [f"{n}.wav|{SENTENCE} number {'abcdefghijklmnopqrstuvwxyz'[n % 26]}" for n in range(clips)]
    (folder / "metadata.csv").write_text("\n".join(["audio_file|text", *rows, *extra]) + "\n", encoding="utf-8")
    return folder


def test_the_worst_comes_first_and_each_problem_says_what_to_do(tmp_path: Path) -> None:
    digits = f"24.wav|{SENTENCE} number 2"
    folder = dataset(tmp_path / "voice", clips=24, extra=("gone.wav|a row without its recording", digits))
    speak(folder / "24.wav", seed=24)
    speak(folder / "unnamed.wav", seed=25)
    result = audit(read_rows(str(folder)), DataConfig(path=str(folder)))
    found = diagnose(result)
    assert (found.verdict, found.rows, found.used) == ("usable", 26, 25)
    assert [problem.reason for problem in found.problems] == ["missing_file", "unnormalised", "orphan_audio"]
    assert all(problem.do and problem.examples for problem in found.problems)
    assert found.seconds == pytest.approx(sum(clip.duration_s for clip in result.clips))


def test_a_healthy_set_has_nothing_to_do_and_leaves_with_0() -> None:
    shown = run(app, ["doctor", "package:voice"])
    assert shown.exit_code == 0
    assert "verdict   good: nothing to do" in shown.stdout
    assert "next      ttstrain new --data package:voice" in shown.stdout


@pytest.mark.parametrize(
    ("clips", "missing", "said"),
    [(24, 30, "30 of 54 rows are left out"), (2, 0, "6 seconds of speech: too little")],
)
def test_what_cannot_be_trained_on_leaves_with_3(tmp_path: Path, clips: int, missing: int, said: str) -> None:
    gone = tuple(f"gone{n}.wav|text {n}" for n in range(missing))
    if missing:  # of which most are there and silent: an audit alone refuses a set without recordings
        folder = dataset(tmp_path / "voice", clips=clips, extra=gone)
        for n in range(missing):
            soundfile.write(folder / f"gone{n}.wav", np.zeros(3 * RATE), RATE)
    else:
        folder = dataset(tmp_path / "voice", clips=clips)
    shown = run(app, ["doctor", str(folder)])
    assert shown.exit_code == 3
    assert said in shown.stdout
    assert "NOT READY" in shown.stdout
    assert "is not ready for training" in shown.stderr
    assert max(len(line) for line in shown.stdout.splitlines() if str(tmp_path) not in line) <= 80


def test_every_reason_of_the_audit_is_said_in_plain_words() -> None:
    package = Path(ttstrain.__file__).parent / "data"
    source = "\n".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py") if path.name != "advice.py")
    skipped = set(re.findall(r'"skip", "([a-z_]+)"|_skip\("([a-z_]+)"', source))
    reasons = {one or other for one, other in skipped} - {"fix", "accept"}  # actions, where a type lists them
    assert len(reasons) > 15
    assert {reason for reason in reasons if reason not in advice._LOST} == set()
