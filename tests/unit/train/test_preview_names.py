"""What the files of a preview are called."""

from __future__ import annotations

import pytest

from ttstrain.train.preview_choice import _file_name


@pytest.mark.parametrize(
    ("clip_id", "name"),
    [
        ("3080-5032-0008.flac", "3080-5032-0008"),
        ("LJ001.0008", "LJ001.0008"),
        ("speaker/one.WAV", "speaker_one"),
        ("../up", "_up"),
        (".wav", "wav"),
        ("...", "clip"),
    ],
)
def test_a_preview_is_named_after_its_clip_and_stays_in_its_folder(clip_id: str, name: str) -> None:
    assert _file_name(clip_id) == name
