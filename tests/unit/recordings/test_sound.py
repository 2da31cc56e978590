"""Long recordings are read whole, and their clips hold the same samples."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ttstrain.data.audio import resampler
from ttstrain.errors import DataError
from ttstrain.recordings import sound
from ttstrain.recordings.sound import Span, clip_ending, listen, write_clips

RNG = np.random.default_rng(0)
SPANS = [Span(0, 700), Span(700, 900), Span(1500, 4000)]


@pytest.mark.parametrize(
    ("name", "subtype", "ending", "kept"),
    [
        ("a.wav", "PCM_16", ".wav", "PCM_16"),
        ("a.wav", "PCM_24", ".wav", "PCM_24"),
        ("a.wav", "PCM_32", ".wav", "PCM_32"),
        ("a.wav", "PCM_U8", ".wav", "PCM_U8"),
        ("a.wav", "FLOAT", ".wav", "FLOAT"),
        ("a.wav", "DOUBLE", ".wav", "DOUBLE"),
        ("a.wav", "ULAW", ".wav", "PCM_16"),
        ("a.flac", "PCM_16", ".flac", "PCM_16"),
        ("a.flac", "PCM_24", ".flac", "PCM_24"),
        ("a.aiff", "PCM_24", ".flac", "PCM_24"),
        ("a.ogg", "VORBIS", ".wav", "FLOAT"),
        ("a.mp3", "MPEG_LAYER_III", ".wav", "FLOAT"),
    ],
)
def test_clips_hold_the_samples_of_the_recording(
    tmp_path: Path, name: str, subtype: str, ending: str, kept: str
) -> None:
    path = tmp_path / name
    soundfile.write(path, RNG.uniform(-0.9, 0.9, (4410, 2)), 22_050, subtype=subtype)
    before = path.read_bytes()
    files = [tmp_path / f"{number}{clip_ending(path)}" for number in range(len(SPANS))]
    assert files[0].suffix == ending
    write_clips(path, SPANS, files)
    assert path.read_bytes() == before
    dtype = "float64" if subtype in ("PCM_32", "DOUBLE") else "float32"  # which holds all others exactly
    whole, rate = soundfile.read(path, dtype=dtype, always_2d=True)
    for span, file in zip(SPANS, files, strict=True):
        assert soundfile.info(file).subtype == kept
        samples, own_rate = soundfile.read(file, dtype=dtype, always_2d=True)
        assert own_rate == rate
        tolerance = 5e-7 if name.endswith(".mp3") else 0  # its decoder rounds by the size of a read
        assert np.allclose(samples, whole[span.start : span.end], rtol=0, atol=tolerance)


@pytest.mark.parametrize("rate", [16_000, 22_050, 44_100, 11_025])
def test_a_recording_in_blocks_is_resampled_as_if_in_one_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: int
) -> None:
    monkeypatch.setattr(sound, "BLOCK_S", 2)
    samples = RNG.uniform(-0.5, 0.5, int(7.3 * rate)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    heard = listen(tmp_path / "a.wav")
    whole = torch.from_numpy(samples)
    expected = whole if rate == 16_000 else resampler(rate, 16_000)(whole)
    assert heard.num_samples == len(samples)
    assert len(heard.wav) == len(expected)
    assert torch.allclose(heard.wav, expected, atol=1e-4)


def test_channels_that_cancel_are_not_added(tmp_path: Path) -> None:
    one = RNG.uniform(-0.5, 0.5, 16_000)
    soundfile.write(tmp_path / "a.wav", np.stack([one, -one], axis=1), 16_000, subtype="FLOAT")
    assert listen(tmp_path / "a.wav").wav.std() == pytest.approx(one.std(), rel=1e-3)


def test_clipping_is_found_by_the_second_and_a_loud_peak_is_none(tmp_path: Path) -> None:
    samples = RNG.uniform(-0.5, 0.5, 5 * 16_000)
    samples[20_000] = 1.0
    samples[50_000:50_010] = 1.0
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="PCM_16")
    assert listen(tmp_path / "a.wav").clipped == (3,)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_bytes(b"no sound at all" * 100)
    with pytest.raises(DataError, match=r"a\.mp3` cannot be used"):
        listen(tmp_path / "a.mp3")
    soundfile.write(tmp_path / "b.wav", np.zeros(0), 16_000)
    with pytest.raises(DataError, match="no samples"):
        listen(tmp_path / "b.wav")
    with pytest.raises(DataError, match="cannot be"):
        listen(tmp_path / "c.wav")
    soundfile.write(tmp_path / "d.wav", np.full(16_000, np.nan), 16_000, subtype="FLOAT")
    with pytest.raises(DataError, match="NaN"):
        listen(tmp_path / "d.wav")


def test_a_name_that_is_no_unicode_is_read_and_written(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(16_000), 16_000)
    source = (tmp_path / "a.wav").rename(tmp_path / os.fsdecode(b"a\xff.wav"))
    assert (listen(source).num_samples, clip_ending(source)) == (16_000, ".wav")
    target = tmp_path / os.fsdecode(b"b\xff.wav")
    write_clips(source, [Span(100, 600)], [target])
    target.rename(tmp_path / "b.wav")
    assert soundfile.info(tmp_path / "b.wav").frames == 500
