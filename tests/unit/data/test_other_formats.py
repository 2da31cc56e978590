"""Sound that cannot be decoded here is named, with the way out."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from ttstrain.data.audit import audit
from ttstrain.data.measure import measure
from ttstrain.data.other_formats import what_it_is
from ttstrain.data.readers import read_rows
from ttstrain.data.readers.rows import TableError
from ttstrain.errors import DataError
from ttstrain.infer.load import read_voice
from ttstrain.recipe.schema import DataConfig

NOISE = bytes(range(1, 250)) * 3
BOX = struct.pack(">I", 32) + b"ftyp"
STARTS = {
    "a.webm": (b"\x1aE\xdf\xa3" + NOISE, "a WebM or Matroska file"),
    "a.wma": (bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + NOISE, "a Windows Media file"),
    "a.amr": (b"#!AMR\n" + NOISE, "an AMR file"),
    "wide.amr": (b"#!AMR-WB\n" + NOISE, "an AMR file"),
    "a.m4a": (BOX + b"M4A " + NOISE, "an MP4 file"),
    "a.3gp": (BOX + b"3gp4" + NOISE, "a 3GP file"),
    "a.aac": (b"\xff\xf1\x50" + NOISE, "an AAC file"),
    "a.avi": (b"RIFF\x00\x10\x00\x00AVI LIST" + NOISE, "an AVI video"),
    "a.ape": (b"MAC \x96" + NOISE, "a Monkey's Audio file"),
    "a.wv": (b"wvpk\x20" + NOISE, "a WavPack file"),
}


@pytest.mark.parametrize("name", STARTS)
def test_each_kind_is_named_with_the_way_out(tmp_path: Path, name: str) -> None:
    content, kind = STARTS[name]
    path = tmp_path / name
    path.write_bytes(content)
    said = what_it_is(path)
    assert said is not None
    assert said.startswith(kind)
    assert said.endswith(f"convert it to flac or wav, such as `ffmpeg -i {name} {path.stem}.flac`")
    [finding] = measure(path, max_s=30).findings
    assert (finding.action, kind in finding.why) == ("skip", True)
    with pytest.raises(DataError, match=kind):
        read_voice(path, "Some words.")


def test_the_way_out_can_be_pasted(tmp_path: Path) -> None:
    path = tmp_path / "my voice.webm"
    path.write_bytes(STARTS["a.webm"][0])
    assert "`ffmpeg -i 'my voice.webm' 'my voice.flac'`" in str(what_it_is(path))


@pytest.mark.parametrize("table", ["a|Some words.\n", "a.webm|Some words.\n"])
def test_a_row_whose_recording_is_of_such_a_kind_says_so(tmp_path: Path, table: str) -> None:
    (tmp_path / "wavs").mkdir()
    (tmp_path / "wavs" / "a.webm").write_bytes(STARTS["a.webm"][0])
    (tmp_path / "metadata.csv").write_text(table)
    with pytest.raises(TableError) as caught:
        audit(read_rows(tmp_path), DataConfig(cache_dir=str(tmp_path / "cache")))
    assert "a WebM or Matroska file" in f"{caught.value.message} {caught.value.hint}"
