from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from speech_toys import syllables, write_clips

from ttstrain.contract.data import Clip, Treatment
from ttstrain.data.audio import read_clip
from ttstrain.errors import DataError


def test_treatment_picks_cuts_and_scales(tmp_path: Path) -> None:
    left, right = syllables(1.0, seed=1), syllables(1.0, seed=2) * 0.1 + 0.2
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), 16_000, subtype="FLOAT")
    clip = Clip(
        id="a", path=tmp_path / "a.wav", text="x", duration_s=0.5, sample_rate=16_000,
        treatment=Treatment(channel=1, gain=10.0, offset=0.2, start=4000, end=12_000),
    )  # fmt: skip
    expected = syllables(1.0, seed=2)[4000:12_000]
    assert torch.allclose(read_clip(clip, 16_000), torch.from_numpy(expected), atol=1e-5)


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("seconds", [0.33333, 2.00001, 29.9])
def test_waveform_has_the_promised_length(rate: int, seconds: float, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", syllables(seconds, rate=rate), rate)
    clip = Clip(id="a", path=tmp_path / "a.wav", text="x", duration_s=seconds, sample_rate=rate)
    clip = replace(clip, treatment=Treatment(end=int(seconds * rate)))
    for target in (24_000, 16_000, rate):
        wav = read_clip(clip, target)
        assert len(wav) == clip.samples_at(target)
        assert wav.dtype == torch.float32


def test_a_file_that_changed_is_refused(tmp_path: Path) -> None:
    [clip] = write_clips(tmp_path, [1.0])
    soundfile.write(clip.path, syllables(0.7), 16_000)
    with pytest.raises(DataError, match="changed since it was checked"):
        read_clip(clip, 16_000)
    clip.path.write_bytes(b"")
    with pytest.raises(DataError, match="cannot be read"):
        read_clip(clip, 16_000)
    clip.path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        read_clip(clip, 16_000)
