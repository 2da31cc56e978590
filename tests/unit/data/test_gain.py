"""A table may say by how much each recording is to be made louder; the files stay as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from ttstrain.data.audio import read_clip
from ttstrain.data.audit import audit
from ttstrain.data.readers import read_rows
from ttstrain.recipe.schema import DataConfig

RATE = 16_000


def write_table(folder: Path, *gains: str, level: float = 0.2) -> list[np.ndarray[tuple[int], np.dtype[np.float32]]]:
    rng = np.random.default_rng(0)
    swell = np.abs(np.sin(np.arange(3 * RATE) / RATE * 4))
    waves = []
    lines = ["file_name,text,gain_db"]
    for number, gain in enumerate(gains):
        wave = (level * swell * rng.uniform(-1, 1, 3 * RATE)).astype(np.float32)
        soundfile.write(folder / f"{number}.wav", wave, RATE, subtype="FLOAT")
        waves.append(wave)
        lines.append(f"{number}.wav,these are the words of clip {'abc'[number]},{gain}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return waves


def test_a_gain_is_applied_when_the_recording_is_read_and_told(tmp_path: Path) -> None:
    waves = write_table(tmp_path, "6.0", "", "-20")
    result = audit(read_rows(tmp_path), DataConfig(path=str(tmp_path)))
    assert len(result.clips) == 3
    for clip, wave, factor in zip(result.clips, waves, (10**0.3, 1.0, 0.1), strict=True):
        assert np.allclose(read_clip(clip, RATE).numpy(), wave * factor, atol=1e-6)
    told = [(finding.row.id, finding.why) for finding in result.findings if finding.reason == "gain"]
    assert told == [("0", "+6.0 dB, as the table says"), ("2", "-20.0 dB, as the table says")]


def test_the_tables_gain_takes_the_place_of_the_audits(tmp_path: Path) -> None:
    waves = write_table(tmp_path, "12", level=0.01)
    result = audit(read_rows(tmp_path), DataConfig(path=str(tmp_path)))
    assert np.allclose(read_clip(result.clips[0], RATE).numpy(), waves[0] * 10**0.6, atol=1e-6)
    assert "very_quiet" not in result.fixed


@pytest.mark.parametrize("gain", ["loud", "nan", "61", "-1e9"])
def test_what_is_no_gain_leaves_its_row_out(tmp_path: Path, gain: str) -> None:
    write_table(tmp_path, gain, "1")
    table = read_rows(tmp_path)
    assert [row.gain_db for row in table.rows] == [1.0]
    assert [(finding.action, finding.reason) for finding in table.findings] == [("skip", "gain")]
