"""Files that are no checkpoints are told for what they are."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ttstrain.errors import CheckpointError
from ttstrain.tensors.contents import read_contents


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\0" * 4096, "download did not finish"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>Access denied</html>", "web page"),
        (b"\n  <html><body>404</body></html>", "web page"),
        (b"GGUF\x03\0\0\0" + b"\0" * 60, "GGUF"),
        (b"\x1f\x8b\x08\0" + b"x" * 60, "gzip"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "recording"),
        (b'{"error": "Repository not found"}', "not a checkpoint"),
        (b"just some text\nin two lines\n", "not a checkpoint"),
        (b"import torch\nprint(torch.ones(2))\n", "is a text file"),  # may begin as the oldest pickles do
        (bytes(range(17, 40)) + b"\xff" * 100, "not a checkpoint"),
        (b"\x80\x02}" + b"\xff" * 100, "cannot be parsed"),
        (b"PK\x03\x04" + b"\x14\0" * 40, "cut short"),
    ],
)
def test_each_impostor_is_called_by_its_name(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_contents(path)
    assert str(path) in caught.value.message
    assert caught.value.exit_code == 4


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        read_contents(tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="not a file"):
        read_contents(tmp_path)


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "a.pt")
    torch.save({"w": torch.ones(2)}, tmp_path / "b.bin")
    assert read_contents(tmp_path / "a.pt").container == "safetensors"
    assert read_contents(tmp_path / "b.bin").container == "zip"


def test_a_pickle_under_the_name_of_safetensors_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        read_contents(tmp_path / "a.safetensors")


def test_a_damaged_pickle_still_tells_what_it_would_have_run(tmp_path: Path) -> None:
    stream = pickle.dumps(print, protocol=2)[:-1] + b"cos\nsystem\n\x97"
    (tmp_path / "x.pt").write_bytes(stream)
    with pytest.raises(CheckpointError, match=r"os\.system.*unsafe"):
        read_contents(tmp_path / "x.pt")
