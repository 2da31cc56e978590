"""Our reader and writer against the safetensors library."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from ttstrain.errors import CheckpointError
from ttstrain.tensors import tensorfile


def make_tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    made = {f"{dtype}": torch.randint(0, 2, (3, 5)).to(dtype) for dtype in tensorfile.DTYPES.values()}
    return made | {"scalar": torch.tensor(2.5), "none": torch.empty(4, 0), "ünï/cödé.": torch.ones(1)}


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    tensors = make_tensors()
    total = tensorfile.write(tmp_path / "x.safetensors", tensors, metadata={"a": "b"})
    read = safetensors.torch.load_file(tmp_path / "x.safetensors")
    assert set(read) == set(tensors)
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert read[name].shape == tensor.shape
        assert bits(read[name]) == bits(tensor)
    with safetensors.safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == {"a": "b"}
    data = (tmp_path / "x.safetensors").read_bytes()
    assert total == tensorfile.FileSum(len(data), hashlib.sha256(data).hexdigest())


def test_we_read_what_the_library_writes(tmp_path: Path) -> None:
    tensors = make_tensors()
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors", metadata={"a": "b"})
    hasher = hashlib.sha256()
    read = tensorfile.read(tmp_path / "x.safetensors", hasher=hasher)
    assert hasher.hexdigest() == hashlib.sha256((tmp_path / "x.safetensors").read_bytes()).hexdigest()
    assert tensorfile.read_header(tmp_path / "x.safetensors").metadata == {"a": "b"}
    assert {name: bits(tensor) for name, tensor in read.items()} == {n: bits(t) for n, t in tensors.items()}


def test_a_stored_tensor_reads_whole_and_in_pieces(tmp_path: Path) -> None:
    tensors = {"x": torch.arange(103, dtype=torch.int16).reshape(1, 103), "y": torch.rand(7, 3)}
    tensorfile.write(tmp_path / "x.safetensors", tensors)
    for name, stored in tensorfile.read_header(tmp_path / "x.safetensors").tensors.items():
        assert torch.equal(stored.read(), tensors[name])
        assert torch.equal(torch.cat([piece.clone() for piece in stored.pieces(10)]), tensors[name].reshape(-1))


@pytest.mark.parametrize("cut", [3, 40, -1])
def test_a_cut_file_says_so(tmp_path: Path, cut: int) -> None:
    tensorfile.write(tmp_path / "x.safetensors", make_tensors())
    data = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(data[:cut])
    with pytest.raises(CheckpointError, match=r"cut short|not a safetensors"):
        tensorfile.read_header(tmp_path / "x.safetensors")
