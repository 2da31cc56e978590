"""Files that are no checkpoints are told for what they are."""

from __future__ import annotations

import json
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


def shards(folder: Path) -> Path:
    """Write two shards and their index."""
    save_file({"a": torch.ones(2), "b": torch.ones(2)}, folder / "one.safetensors")
    save_file({"c": torch.zeros(2)}, folder / "two.safetensors")
    index = folder / "model.safetensors.index.json"
    write_index(index, {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"})
    return index


def write_index(index: Path, places: dict[str, str]) -> None:
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))


def test_an_index_that_contradicts_its_shards_is_refused(tmp_path: Path) -> None:
    index = shards(tmp_path)
    assert set(read_contents(index).tree) == {"a", "b", "c"}
    write_index(index, {"a": "two.safetensors", "b": "one.safetensors", "c": "two.safetensors"})
    with pytest.raises(CheckpointError, match=r"`a` is in `two\.safetensors`, which does not hold it"):
        read_contents(index)
    write_index(index, {"a": "one.safetensors", "c": "two.safetensors"})
    with pytest.raises(CheckpointError, match="does not list `b`"):
        read_contents(index)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    index = shards(tmp_path)
    save_file({"c": torch.zeros(2), "a": torch.zeros(2)}, tmp_path / "two.safetensors")
    with pytest.raises(CheckpointError, match=r"two of the files .* hold `a`"):
        read_contents(index)


# ---------------------------------------------------------------- checksums of a zip


def flipped(path: Path, text: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(text) + 1] ^= 1
    path.write_bytes(content)


def test_a_bit_of_a_weight_is_found_by_the_archives_checksum(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    weights = torch.arange(300, dtype=torch.float32) + 7
    torch.save({"whole": weights, "part": weights[100:200], "turned": weights.reshape(10, 30).T}, path)
    flipped(path, weights[150:160].numpy().tobytes())
    tree = read_contents(path).tree
    assert isinstance(tree, dict)
    for name in ("whole", "part", "turned"):  # of one storage
        with pytest.raises(CheckpointError, match="the checksum of a tensor in it differs"):
            tree[name].read()
        with pytest.raises(CheckpointError, match="the checksum of a tensor in it differs"):
            list(tree[name].pieces(64))


def test_a_bit_of_a_setting_is_found_by_the_archives_checksum(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"setting": "on", "w": torch.ones(2)}, path)
    flipped(path, b"setting")
    with pytest.raises(CheckpointError, match="the checksum of its pickle differs"):
        read_contents(path)


def test_an_archive_that_was_written_without_checksums_is_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(compute_crc32=False)
    try:
        torch.save({"w": torch.arange(5)}, tmp_path / "w.pt")
    finally:
        torch.serialization.set_crc32_options(compute_crc32=True)
    tree = read_contents(tmp_path / "w.pt").tree
    assert isinstance(tree, dict)
    assert tree["w"].read().tolist() == [0, 1, 2, 3, 4]
