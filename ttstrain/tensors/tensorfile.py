"""Safetensors files, written and read in one pass.

Writing hashes what it writes, reading can hash what it reads, and a tensor can be looked at piece by piece without
being held in memory. The format is public: 8 bytes of header length, a JSON header, then the tensors back to back.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from ttstrain import documents
from ttstrain.digest import Running, running
from ttstrain.errors import CheckpointError
from ttstrain.places import refused_as

CHUNK = 16 << 20  # bytes handled at a time; large enough that hashing and disk are the limit
PIECE = 1 << 20  # elements looked at together; small enough for the processor's cache
MAX_HEADER = 32 << 20  # bytes: some 250,000 tensors; the safetensors library allows three times as much
MOST_DIMENSIONS = 64  # torch's own limit
MOST_ELEMENTS = 1 << 58

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class FileSum:
    """Size and content of a file."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor that still lies in a file; `strides` are in elements and may repeat or skip stored elements."""

    path: Path
    offset: int  # bytes from the start of the file to the first element
    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def span(self) -> int:
        """Number of stored elements from the first one used to the last."""
        if self.numel == 0:
            return 0
        return 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))

    def read(self) -> Tensor:
        """Read the whole tensor into memory of its own."""
        flat = torch.empty(self.span, dtype=self.dtype)
        with self.path.open("rb") as file:
            file.seek(self.offset)
            read_into(file, flat, self.path)
        return torch.as_strided(flat, self.shape, self.strides).clone(memory_format=torch.contiguous_format)

    def pieces(self, elements: int = PIECE) -> Iterator[Tensor]:
        """Yield the stored elements as flat tensors, at most `elements` at a time; each is overwritten by the next."""
        buffer = torch.empty(min(elements, self.span), dtype=self.dtype)
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.offset)
            for start in range(0, self.span, elements):
                piece = buffer[: min(elements, self.span - start)]
                read_into(file, piece, self.path)
                yield piece


@dataclass(frozen=True, slots=True)
class Header:
    """What a safetensors file says about itself; `tensors` keep the writer's order."""

    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]
    end: int  # size of the file in bytes


def write(path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None) -> FileSum:
    """Write tensors with their plain names and flush them to the disk; the file itself is not atomic."""
    # Widest elements first, as the safetensors library does, so that every tensor lies aligned.
    order = sorted(tensors, key=lambda name: -tensors[name].element_size())
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    ends: dict[str, tuple[int, int]] = {}
    position = 0
    for name in order:
        size = tensors[name].numel() * tensors[name].element_size()
        ends[name] = (position, position + size)
        position += size
    for name, tensor in tensors.items():
        if tensor.dtype not in _NAMES or tensor.layout != torch.strided:
            raise TypeError(f"`{name}`: a {tensor.layout} tensor of {tensor.dtype} has no place in a safetensors file")
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": list(ends[name])}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    hasher = running()
    with path.open("wb") as file:
        head = len(text).to_bytes(8, "little") + text
        hasher.update(head)
        file.write(head)
        for name in order:
            data = _bytes_of(tensors[name].detach().to("cpu").contiguous())
            for start in range(0, len(data), CHUNK):
                hasher.update(data[start : start + CHUNK])
                file.write(data[start : start + CHUNK])
        file.flush()
        os.fsync(file.fileno())
    return FileSum(bytes=8 + len(text) + position, sha256=hasher.hexdigest())


def read_header(path: Path) -> Header:
    """Parse the header. Raises CheckpointError when the file is cut short or is not a safetensors file."""
    return _header(path)[0]


def read(path: Path, *, hasher: Running | None = None) -> dict[str, Tensor]:
    """Read every tensor in one pass over the file, in the writer's order."""
    header, start = _header(path)
    loaded: dict[str, Tensor] = {}
    with path.open("rb") as file:
        head = file.read(start)
        if hasher is not None:
            hasher.update(head)
        for name, stored in sorted(header.tensors.items(), key=lambda item: _place(item[1])):
            tensor = torch.empty(stored.shape, dtype=stored.dtype)
            read_into(file, tensor, path, hasher=hasher)
            loaded[name] = tensor
    return {name: loaded[name] for name in header.tensors}


def read_into(file: IO[bytes], tensor: Tensor, path: Path, *, hasher: Running | None = None) -> None:
    """Fill a contiguous tensor from the file's present position."""
    data = _bytes_of(tensor)
    for start in range(0, len(data), CHUNK):
        piece = data[start : start + CHUNK]
        filled = 0
        while filled < len(piece):
            count = file.readinto(piece[filled:])  # type: ignore[attr-defined]
            if not count:
                raise CheckpointError(f"`{path}` is cut short", hint="copy or download it again")
            filled += count
        if hasher is not None:
            hasher.update(piece)


def _bytes_of(tensor: Tensor) -> memoryview:
    if tensor.numel() == 0:
        return memoryview(b"")
    flat: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(flat)


def _header(path: Path) -> tuple[Header, int]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= MAX_HEADER:
            raise CheckpointError(f"`{path}` is not a safetensors file")
        text = file.read(length)
    if len(text) < length:
        raise CheckpointError(f"`{path}` is cut short inside its header", hint="copy or download it again")
    start = 8 + length
    try:
        entries = documents.check_object(documents.parse(text), {})
        metadata = entries.pop("__metadata__", {})
        documents.check_object(metadata, dict.fromkeys(metadata, str))
        tensors = {name: _entry(path, start, entry) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"`{path}` is not a safetensors file: its header cannot be read ({error})") from error
    end = start
    for stored in sorted(tensors.values(), key=_place):
        if stored.offset != end:
            raise CheckpointError(f"`{path}` is damaged: its tensors do not lie back to back")
        end += stored.numel * stored.dtype.itemsize
    if end != size:
        raise CheckpointError(
            f"`{path}` is cut short: {size:,} of {end:,} bytes"
            if size < end
            else f"`{path}` has {size - end:,} bytes too many",
            hint="copy or download it again",
        )
    return Header(tensors=tensors, metadata=metadata, end=end), start


def _entry(path: Path, start: int, entry: Mapping[str, Any]) -> StoredTensor:
    documents.check_object(entry, {"dtype": str, "shape": list, "data_offsets": list})
    begin, end = entry["data_offsets"]
    if not all(type(size) is int for size in (*entry["shape"], begin, end)):
        raise ValueError("a size that is no whole number")
    shape, dtype = tuple(entry["shape"]), DTYPES[entry["dtype"]]
    check_shape(shape)
    if min(shape, default=0) < 0 or end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError("a tensor's size and place disagree")
    return StoredTensor(path, start + begin, dtype, shape, contiguous_strides(shape))


def check_shape(shape: Sequence[int]) -> None:
    """Raise ValueError for a shape that torch has no tensor of, empty ones too."""
    if len(shape) > MOST_DIMENSIONS or math.prod(max(size, 1) for size in shape) > MOST_ELEMENTS:
        raise ValueError(f"a tensor of {len(shape)} dimensions that no memory could hold")


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of a row-major tensor."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def _place(stored: StoredTensor) -> tuple[int, int]:
    """Order of the tensors in a file; an empty one comes before its neighbour."""
    return stored.offset, stored.numel


@refused_as(CheckpointError)
def read_tree(tree: Any) -> Any:
    """Replace every `StoredTensor` in a tree of dicts and lists by the tensor it stands for."""
    if isinstance(tree, StoredTensor):
        return tree.read()
    if isinstance(tree, Mapping):
        return {key: read_tree(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [read_tree(value) for value in tree]
    return tree


# ---------------------------------------------------------------- looking without loading


@dataclass(frozen=True, slots=True)
class Range:
    """Smallest and largest value of a tensor; NaN in either when there is one."""

    low: float
    high: float

    @property
    def finite(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def zero(self) -> bool:
        return self.low == 0 == self.high


def value_range(stored: StoredTensor) -> Range | None:
    """Find a tensor's range in one pass without holding it; None when it has no elements."""
    low, high = math.inf, -math.inf
    for piece in _comparable_pieces(stored):
        smallest, largest = torch.aminmax(piece)
        low, high = _least(low, float(smallest)), -_least(-high, -float(largest))
    return None if stored.numel == 0 else Range(low, high)


def root_mean_square(stored: StoredTensor) -> float:
    """Return sqrt(mean(x^2)); 0 when there are no elements."""
    total = sum(float(torch.linalg.vector_norm(piece.double())) ** 2 for piece in _comparable_pieces(stored))
    return math.sqrt(total / stored.numel) if stored.numel else 0.0


def relative_distance(averages: Mapping[str, StoredTensor], weights: Mapping[str, StoredTensor]) -> float | None:
    """Return ||average - weight|| / ||weight|| over the floating-point tensors that both hold; None without any."""
    gap = size = 0.0
    for name, weight in weights.items():
        if name in averages and averages[name].shape == weight.shape and weight.dtype.is_floating_point:
            gaps, sizes = gap_and_size(averages[name], weight)
            gap, size = math.hypot(gap, gaps), math.hypot(size, sizes)
    return gap / size if size > 0 else None


def gap_and_size(one: StoredTensor, other: StoredTensor) -> tuple[float, float]:
    """Return ||one - other|| and ||other|| of two tensors of one shape, without holding them."""
    gap = size = 0.0
    together = one.strides == other.strides and one.span == one.numel
    for first, second in zip(_pieces(one, together), _pieces(other, together), strict=True):
        wide = torch.float32 if first.is_floating_point() and second.is_floating_point() else torch.float64
        left, right = first.to(wide), second.to(wide)
        size = math.hypot(size, float(torch.linalg.vector_norm(right)))
        gap = math.hypot(gap, float(torch.linalg.vector_norm(left - right)))
    return gap, size


def _comparable_pieces(stored: StoredTensor) -> Iterator[Tensor]:
    """Yield a tensor's own elements in a dtype that can be compared, in any order."""
    # A view with gaps or repeats is read whole: its stored elements are not exactly its own.
    return _pieces(stored, stored.span == stored.numel)


def _pieces(stored: StoredTensor, in_storage_order: bool) -> Iterator[Tensor]:
    for piece in stored.pieces() if in_storage_order else iter([stored.read().reshape(-1)]):
        if piece.dtype.is_complex:
            yield torch.view_as_real(piece).reshape(-1)
        elif piece.dtype.itemsize == 1 and piece.dtype.is_floating_point:
            yield piece.float()
        elif piece.dtype in (torch.uint16, torch.uint32, torch.uint64):
            yield piece.double()
        else:
            yield piece


def _least(one: float, other: float) -> float:
    """Return the smaller number, or NaN as soon as one is."""
    return math.nan if math.isnan(one) or math.isnan(other) else min(one, other)
