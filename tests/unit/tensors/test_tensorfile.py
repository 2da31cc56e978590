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


HEADERS = {
    "two tensors on the same bytes": '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
    '"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    "a hole": '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
    '"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}',
    "fewer bytes than the shape": '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}',
    "bytes of nobody": '{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}',
    "beyond the end": '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
    "from the end to the start": '{"a":{"dtype":"U8","shape":[0],"data_offsets":[4,0]}}',
    "no type of ours": '{"a":{"dtype":"F4","shape":[8],"data_offsets":[0,4]}}',
    "a name that fills the screen": '{"' + "n" * 100_000 + '":{"dtype":"U8","shape":[9],"data_offsets":[0,4]}}',
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_a_header_that_lies_is_refused(header: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(4))
    with pytest.raises(CheckpointError, match="not a safetensors file") as caught:
        tensorfile.read_header(path)
    assert caught.value.exit_code == 4
    assert len(caught.value.message) < 600


@pytest.mark.parametrize("length", [0, 1, 1 << 20, tensorfile.MAX_HEADER + 1, 1 << 62, (1 << 64) - 1])
def test_a_header_whose_length_lies_is_refused(length: int, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}" + bytes(1000))
    for reader in (tensorfile.read_header, tensorfile.read_mapped):
        with pytest.raises(CheckpointError, match="not a safetensors file"):
            reader(path)


def test_places_are_found_whatever_the_order_of_the_header(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    header = (
        b'{"b":{"dtype":"I16","shape":[2],"data_offsets":[2,6]},"none":{"dtype":"F32","shape":[0],"data_offsets":[2,2]},'
        b'"a":{"dtype":"U8","shape":[2,1],"data_offsets":[0,2]}}'
    )
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes([1, 2, 3, 0, 4, 0]))
    expected = [("b", [3, 4]), ("none", []), ("a", [[1], [2]])]
    found = tensorfile.read_header(path).tensors
    assert [(name, stored.read().tolist()) for name, stored in found.items()] == expected
    assert [(name, tensor.tolist()) for name, tensor in tensorfile.read(path).items()] == expected


def test_what_is_encoded_is_read_mapped(tmp_path: Path) -> None:
    tensors = make_tensors()
    (tmp_path / "x.safetensors").write_bytes(tensorfile.encode(tensors, metadata={"a": "b"}))
    read, metadata = tensorfile.read_mapped(tmp_path / "x.safetensors")
    assert metadata == {"a": "b"}
    assert {name: bits(tensor) for name, tensor in read.items()} == {n: bits(t) for n, t in tensors.items()}


@pytest.mark.parametrize("cut", [3, 40, -1])
def test_a_cut_file_says_so(tmp_path: Path, cut: int) -> None:
    tensorfile.write(tmp_path / "x.safetensors", make_tensors())
    data = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(data[:cut])
    with pytest.raises(CheckpointError, match=r"cut short|not a safetensors"):
        tensorfile.read_header(tmp_path / "x.safetensors")
