"""No two recordings of a folder write the same clips."""

from __future__ import annotations

from pathlib import Path

import pytest

from ttstrain.recordings import build


@pytest.mark.parametrize(
    "files",
    [
        ("a-2.wav", "a.flac", "a.wav"),
        ("a.wav", "A.wav", "a/b.wav", "a-b.wav"),
        ("?.wav", "!.wav", ".wav.wav"),
        (f"{'x' * 200}1/{'y' * 200}.wav", f"{'x' * 200}2/{'y' * 200}.wav"),
    ],
)
def test_each_recording_has_a_name_of_its_own(tmp_path: Path, files: tuple[str, ...]) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    found = build._recordings(tmp_path)
    assert len({name.casefold() for _, name in found}) == len(found) >= len(files) - 1
    assert all(0 < len(name) <= build.LONGEST_NAME + 3 for _, name in found)
