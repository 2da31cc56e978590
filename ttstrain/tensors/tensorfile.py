"""Safetensors files, and tensors that still lie in a file.

The library `safetensors` reads and checks headers, and serves small files whole. This module adds: writing
that hashes the bytes on their way, takes one tensor at a time from the device, flushes to the disk and raises OSError;
reading that hashes in the same pass; tensors that are looked at piece by piece. The format: 8 bytes of header length,
a JSON header, then the tensors back to back.
"""

from __future__ import annotations

import functools
import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ttstrain import documents
from ttstrain.digest import Running, running
from ttstrain.errors import CheckpointError, OutOfMemoryError, first_line, is_out_of_memory
from ttstrain.places import refused_as

CHUNK = 16 << 20  # bytes read or written at a time; large enough that hashing and disk are the limit
PIECE = 1 << 20  # elements examined together; small enough for the processor's cache
MAX_HEADER = 32 << 20  # bytes: some 250,000 tensors; the safetensors library allows three times as much
MOST_DIMENSIONS = 64  # torch's own limit
MOST_ELEMENTS = 1 << 58
_SHOWN = 200  # characters of the library's reason, which may quote the file

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
class StoredSum:
    """A stretch of a file with the checksum that the file states for it."""

    start: int  # bytes from the start of the file
    bytes: int
    crc32: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor that still lies in a file; `strides` are in elements and may repeat or skip stored elements.

    Reading it raises CheckpointError where the file is cut short, or where `sum` says that it is damaged.
    """

    path: Path
    offset: int  # bytes from the start of the file to the first element
    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    sum: StoredSum | None = field(default=None, kw_only=True)  # of the stretch that the tensor lies in

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
        self._check_stretch()
        with _within_memory(self):
            flat = torch.empty(self.span, dtype=self.dtype)
            with self.path.open("rb") as file:
                file.seek(self.offset)
                read_into(file, flat, self.path)
            if self._is_summed:
                self._compare(zlib.crc32(_bytes_of(flat)))
            return torch.as_strided(flat, self.shape, self.strides).clone(memory_format=torch.contiguous_format)

    def pieces(self, elements: int = PIECE) -> Iterator[Tensor]:
        """Yield the stored elements as flat tensors, at most `elements` at a time; each is overwritten by the next."""
        buffer = torch.empty(min(elements, self.span), dtype=self.dtype)
        self._check_stretch()
        crc = 0
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.offset)
            for start in range(0, self.span, elements):
                piece = buffer[: min(elements, self.span - start)]
                read_into(file, piece, self.path)
                crc = zlib.crc32(_bytes_of(piece), crc) if self._is_summed else 0
                yield piece
        self._compare(crc)

    @property
    def _is_summed(self) -> bool:
        """Whether the tensor is all of the stretch that has a checksum."""
        own = self.offset, self.span * self.dtype.itemsize
        return self.sum is not None and own == (self.sum.start, self.sum.bytes)

    def _check_stretch(self) -> None:
        """Compare the checksum of a stretch of which the tensor is a part; it is read once for all its parts."""
        if self.sum is None or self._is_summed:
            return
        if _crc_of(self.path, self.path.stat().st_mtime_ns, self.sum) != self.sum.crc32:
            raise _differs(self.path)

    def _compare(self, crc: int) -> None:
        if self.sum is not None and self._is_summed and crc != self.sum.crc32:
            raise _differs(self.path)


@dataclass(frozen=True, slots=True)
class ConvertedTensor(StoredTensor):
    """A stored tensor that is read in another type, `dtype`; see `converted`."""

    source: StoredTensor

    def read(self) -> Tensor:
        """Read the whole tensor and convert it."""
        return self.source.read().to(self.dtype)

    def pieces(self, elements: int = PIECE) -> Iterator[Tensor]:
        """Yield what the source yields, converted."""
        for piece in self.source.pieces(elements):
            yield piece.to(self.dtype)


def converted(stored: StoredTensor, dtype: torch.dtype) -> StoredTensor:
    """Return a tensor that is read as one of this type."""
    if stored.dtype == dtype:
        return stored
    return ConvertedTensor(stored.path, stored.offset, dtype, stored.shape, stored.strides, source=stored)


@contextmanager
def _within_memory(stored: StoredTensor) -> Iterator[None]:
    """Name the file and the size of a tensor for which the memory is too small: a view may repeat what is stored."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        size = stored.numel * stored.dtype.itemsize / 2**30
        raise OutOfMemoryError(
            f"`{stored.path}` cannot be read: one tensor in it takes {size:,.1f} GiB, more than there is memory",
            hint="end other programs that hold memory, or use a machine with more of it",
        ) from error


def _differs(path: Path) -> CheckpointError:
    return CheckpointError(
        f"`{path}` is damaged: the checksum of a tensor in it differs", hint="copy or download it again"
    )


@functools.lru_cache(maxsize=4096)
def _crc_of(path: Path, changed: int, stretch: StoredSum) -> int:
    """Return the checksum of a stretch of a file; `changed`, the time of its last change, keeps it from being stale."""
    crc, left = 0, stretch.bytes
    with path.open("rb", buffering=0) as file:
        file.seek(stretch.start)
        while left and (piece := file.read(min(CHUNK, left))):
            crc, left = zlib.crc32(piece, crc), left - len(piece)
    return crc


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a safetensors file; `tensors` are in the writer's order."""

    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]
    start: int  # bytes before the first tensor


def write(
    path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None, durable: bool = True
) -> FileSum:
    """Write tensors with their plain names, hash them and flush them to the disk; the file itself is not atomic.

    What is not `durable`, because it is of use to this process only, is neither hashed nor flushed.
    """
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
            raise TypeError(
                f"`{name}`: a {tensor.layout} tensor of {tensor.dtype} cannot be stored in a safetensors file"
            )
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": list(ends[name])}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    hasher = running() if durable else None
    with path.open("wb") as file:
        for data in _bytes_to_write(len(text).to_bytes(8, "little") + text, [tensors[name] for name in order]):
            if hasher is not None:
                hasher.update(data)
            file.write(data)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    return FileSum(bytes=8 + len(text) + position, sha256="" if hasher is None else hasher.hexdigest())


def _bytes_to_write(head: bytes, tensors: Sequence[Tensor]) -> Iterator[Any]:
    """Yield a file's bytes, with one tensor at a time on the host."""
    yield head
    for tensor in tensors:
        data = _bytes_of(tensor.detach().to("cpu").contiguous())
        for start in range(0, len(data), CHUNK):
            yield data[start : start + CHUNK]


def encode(tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str]) -> bytes:
    """Return the content of a file, for small ones that are written in one go."""
    return safetensors.torch.save(dict(tensors), metadata=dict(metadata))


def read_mapped(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """Return every tensor, memory-mapped, and the metadata. Read the tensors, never write into them.

    Raises CheckpointError when the file is no whole safetensors file, OSError when it cannot be read at all.
    """
    with _opened(path) as (file, _):
        return {name: file.get_tensor(name) for name in sorted(file.keys())}, file.metadata() or {}


def read_header(path: Path) -> Header:
    """Read the header. Raises CheckpointError when the file is no whole safetensors file."""
    tensors: dict[str, StoredTensor] = {}
    with _opened(path) as (file, text):
        offset = start = 8 + len(text)
        for name in file.offset_keys():  # the library checks that tensors lie back to back
            described = file.get_slice(name)
            tensors[name] = _stored(path, offset, described.get_dtype(), tuple(described.get_shape()))
            offset += tensors[name].numel * tensors[name].dtype.itemsize
        written = [name for name in documents.parse(text) if name in tensors]  # the library's order is another
        return Header({name: tensors[name] for name in written}, metadata=file.metadata() or {}, start=start)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, bytes]]:
    """Open a file with the library; yield it and its header's JSON."""
    documents.check_ordinary(path, error=CheckpointError)  # a pipe would never open
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= MAX_HEADER:
            raise CheckpointError(f"`{path}` is not a safetensors file")
        text = file.read(length)
    try:
        with safe_open(path, framework="pt") as file:
            yield file, text
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"`{path}` is cut short, damaged, or not a safetensors file ({first_line(error)[:_SHOWN]})",
            hint="copy or download it again",
        ) from error


def _stored(path: Path, offset: int, dtype: str, shape: tuple[int, ...]) -> StoredTensor:
    if dtype not in DTYPES:
        raise ValueError(f"tensors of type {dtype} are not supported")
    check_shape(shape)
    return StoredTensor(path, offset, DTYPES[dtype], shape, contiguous_strides(shape))


def read(path: Path, *, hasher: Running | None = None) -> dict[str, Tensor]:
    """Read every tensor in one pass over the file, in the writer's order."""
    header = read_header(path)
    loaded = {name: torch.empty(stored.shape, dtype=stored.dtype) for name, stored in header.tensors.items()}
    with path.open("rb") as file:
        head = file.read(header.start)
        if hasher is not None:
            hasher.update(head)
        for name in sorted(loaded, key=lambda name: header.tensors[name].offset):
            read_into(file, loaded[name], path, hasher=hasher)
    return loaded


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


def check_shape(shape: Sequence[int]) -> None:
    """Raise ValueError for a shape that no torch tensor can have, even an empty one."""
    if len(shape) > MOST_DIMENSIONS or math.prod(max(size, 1) for size in shape) > MOST_ELEMENTS:
        raise ValueError(f"a tensor of {len(shape)} dimensions that exceeds any memory")


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of a row-major tensor."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


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
    """Return ||ema - raw|| / ||raw|| over the floating-point tensors of both files; None if they share none."""
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
