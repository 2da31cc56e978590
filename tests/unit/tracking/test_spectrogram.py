"""Pictures of mels are right way up and readable by others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ttstrain.tracking import spectrogram

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def test_time_goes_right_pitch_goes_up_and_loud_is_bright() -> None:
    mel = torch.full((40, 100), -11.5)
    mel[30:, :10] = 2.0  # late and low
    brightness = spectrogram.picture(mel) @ LUMA  # (h, w)
    height, width = brightness.shape
    rows, columns = np.nonzero(brightness > 128)
    assert columns.min() == width * 30 // 40
    assert columns.max() == width - 1
    assert rows.min() == height * 90 // 100
    assert rows.max() == height - 1


def test_louder_is_always_brighter() -> None:
    mel = torch.linspace(-11.5, 2.0, 256)[:, None]
    brightness = (spectrogram.picture(mel) @ LUMA)[0, :: spectrogram.PIXELS]
    assert (np.diff(brightness) >= 0).all()
    assert brightness[-1] - brightness[0] > 150


def test_the_scale_is_the_same_for_every_picture() -> None:
    quiet, loud = (spectrogram.picture(torch.full((4, 4), level)) for level in (-8.0, -2.0))
    assert (quiet @ LUMA).max() < (loud @ LUMA).min()


def test_a_file_is_read_back_as_it_was(tmp_path: Path) -> None:
    mel = torch.empty(37, 61).uniform_(-12, 3, generator=torch.Generator().manual_seed(0))
    spectrogram.write(tmp_path / "x.png", mel)
    with Image.open(tmp_path / "x.png") as read:
        assert read.format == "PNG"
        assert (np.asarray(read.convert("RGB")) == spectrogram.picture(mel)).all()


@pytest.mark.parametrize("frames", [1, 799, 800, 801, 12345])
def test_long_utterances_stay_within_the_width(frames: int) -> None:
    height, width, _ = spectrogram.picture(torch.zeros(frames, 100)).shape
    assert height == 100 * spectrogram.PIXELS
    assert 0 < width <= spectrogram.MAX_WIDTH


def test_non_finite_values_are_drawn(recwarn: pytest.WarningsRecorder) -> None:
    mel = torch.tensor([[float("nan"), float("inf"), -float("inf"), 0.0]], dtype=torch.bfloat16)
    brightness = (spectrogram.picture(mel) @ LUMA)[:: spectrogram.PIXELS, 0]
    assert brightness[2] == brightness.max()  # infinitely loud; pitch goes up, so band 1 is row 2
    assert not recwarn.list
