"""Read what `torch.save` wrote without executing any of it.

Python's unpickler imports and calls whatever a file names. This stack machine imports and calls nothing.
The few names of containers and tensors are understood, every other object becomes an inert `Record`.
Tensors stay in the file (`StoredTensor`) until they are read.
"""

from __future__ import annotations

import io
import mmap
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal

from ttstrain.errors import CheckpointError
from ttstrain.state import Tree
from ttstrain.tensors.pickle_limits import (
    LONGEST_NAME,
    MOST_PICKLE_BYTES,
    SCANNED_OPERATIONS,
    BoundedReads,
    Budget,
    MappedFile,
)
from ttstrain.tensors.pickle_machine import PYTHON3, Locate, Machine, Place, Record, Storage, anywhere, no_storage
from ttstrain.tensors.tensorfile import StoredSum

Container = Literal["zip", "legacy", "pickle"]

# Legacy files of torch < 1.6 start with this number, pickled: https://github.com/pytorch/pytorch torch/serialization.py
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LOCAL_HEADER = 30  # bytes of a zip member's header before its name
_HEADER_TAIL = b"\x03\x04"  # of the zip signature; GPT-SoVITS puts a version into the two bytes before it
_PICKLE_SUFFIX = ".pkl"
_MAGIC_OPERATIONS = 16  # the magic number's pickle takes three
_PROBE = 1 << 20  # bytes looked at to tell whether something is a pickle of protocol 0 or 1, which have no signature


@dataclass(frozen=True, slots=True)
class Pickled:
    """The content of a pickled file; tensors are `StoredTensor`s."""

    tree: Tree
    globals: tuple[str, ...]  # every name in the file, once each, in order of appearance
    container: Container


# ---------------------------------------------------------------- files


def read(path: Path) -> Pickled:
    """Read a file of `torch.save`, of either of its layouts, or a bare pickle.

    The first two bytes of a zip may be anything: GPT-SoVITS writes its version there. Raises CheckpointError when the
    file is cut short or holds an opcode or object that is not supported.
    """
    with path.open("rb") as file:
        head = file.read(4)
        if head[2:] == _HEADER_TAIL:
            return _read_zip(path, file)
        with _stream(file) as stream:
            if _is_legacy(stream, path):
                return _read_legacy(path, stream)
            stream.seek(0)
            machine = Machine(path, no_storage, Budget(len(stream)))
            return Pickled(machine.run(stream), machine.names(), "pickle")


def scan_globals(path: Path) -> list[str]:
    """List every name that the pickles in a file would import, even where a pickle is damaged."""
    names: dict[str, None] = {}
    if path.stat().st_size == 0:
        return []
    with path.open("rb") as file:
        for stream in _streams(path, file):
            names.update(dict.fromkeys(_scan(stream, path)))
    return list(names)


def looks_pickled(path: Path) -> bool:
    """Tell whether a file that is no zip starts with a pickle of some kind."""
    with path.open("rb") as file:
        start = file.read(_PROBE)
    return start.startswith(b"\x80") or bool(_scan(io.BytesIO(start), path))


def walk(tree: Tree) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield (path, leaf) of every leaf of a tree that came out of a file, each container once.

    Raises CheckpointError when the names in it are longer than any checkpoint's.
    """
    seen: set[int] = set()
    stack: list[tuple[tuple[str, ...], Any]] = [((), tree)]
    while stack:
        path, node = stack.pop()
        children = _children(node)
        if children is None:
            yield path, node
        elif id(node) not in seen:
            seen.add(id(node))
            if sum(map(len, path)) + len(path) > LONGEST_NAME:
                raise CheckpointError(f"it holds names of more than {LONGEST_NAME:,} characters")
            stack.extend(((*path, label(key)), value) for key, value in reversed(children))


def label(key: Any) -> str:
    """Name a key."""
    text = str(key)
    return text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}…"


def _children(node: Any) -> list[tuple[Any, Any]] | None:
    if isinstance(node, Mapping):
        return list(node.items())
    if isinstance(node, list | tuple):
        return list(enumerate(node))
    if isinstance(node, Record):
        return [("args", node.args), ("state", node.state), *enumerate(node.items), *node.entries.items()]
    return None


def _stream(file: IO[bytes]) -> Any:
    """Map a file: a read beyond its end returns less, where a buffered file would first allocate the memory."""
    return MappedFile(file.fileno(), 0, access=mmap.ACCESS_READ)  # it has all methods of a binary file that are used


def _is_legacy(file: IO[bytes], path: Path) -> bool:
    try:
        return bool(Machine(path, no_storage, Budget(0, _MAGIC_OPERATIONS)).run(file) == _LEGACY_MAGIC)
    except CheckpointError:
        return False


def _scan(stream: IO[bytes], path: Path) -> list[str]:
    """Collect the names of one pickle: by running it, and where that fails by reading every opcode."""
    start = stream.tell()
    machine = Machine(path, anywhere, Budget(path.stat().st_size, SCANNED_OPERATIONS))
    try:
        machine.run(stream)
    except CheckpointError:
        stream.seek(start)
        machine.found.update(dict.fromkeys(_visible_names(stream)))
    return list(machine.found)


def _visible_names(stream: IO[bytes]) -> Iterator[str]:
    """Yield the names in a damaged pickle, as far as its opcodes can be read; `read` reports the damage."""
    strings = ["?", "?"]
    try:
        operations = islice(pickletools.genops(stream), SCANNED_OPERATIONS)
        for opcode, argument, _ in operations:
            if opcode.name in ("GLOBAL", "INST"):
                module, _, name = str(argument).partition(" ")
                yield f"{PYTHON3.get(module, module)}.{name}"
            elif opcode.name == "STACK_GLOBAL":
                yield ".".join(strings)
            elif isinstance(argument, str):
                strings = [strings[1], argument]
    except (ValueError, EOFError, OverflowError):
        return


def _streams(path: Path, file: IO[bytes]) -> Iterator[IO[bytes]]:
    """Yield every pickle of a file, positioned at its start."""
    head = file.read(4)
    file.seek(0)
    if head[2:] == _HEADER_TAIL:
        for name, member in _open_zip(path, file).items():
            if name.endswith(_PICKLE_SUFFIX):
                file.seek(member.offset)
                yield io.BytesIO(file.read(min(member.size, MOST_PICKLE_BYTES)))
        return
    with _stream(file) as stream:
        while True:
            start = stream.tell()
            yield stream
            if stream.tell() <= start or stream.read(1) != b"\x80":  # the storages of a legacy file, or its end
                return
            stream.seek(-1, io.SEEK_CUR)


@dataclass(frozen=True, slots=True)
class _Member:
    offset: int  # of its data, from the start of the file
    size: int
    crc32: int  # of its data; 0 where the writer left it out

    @property
    def sum(self) -> StoredSum | None:
        return StoredSum(self.offset, self.size, self.crc32) if self.crc32 else None


def _open_zip(path: Path, file: IO[bytes]) -> dict[str, _Member]:
    """Find every member's data. The central directory counts; of the local headers only the lengths are used."""
    try:
        with zipfile.ZipFile(BoundedReads(file)) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, OSError) as error:
        raise CheckpointError(
            f"`{path}` is cut short or damaged: its end is missing", hint="download it again"
        ) from error
    size = path.stat().st_size
    members: dict[str, _Member] = {}
    for info in infos:
        if info.filename in members:
            raise CheckpointError(f"`{path}` is damaged: it holds `{info.filename}` twice")
        if info.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(
                f"`{path}` is compressed, which `torch.save` never does", hint="it may be an ordinary zip: unpack it"
            )
        file.seek(max(info.header_offset, 0))
        header = file.read(_LOCAL_HEADER)
        if info.header_offset < 0 or header[2:4] != _HEADER_TAIL or (header[:2] != b"PK" and info.header_offset != 0):
            raise CheckpointError(f"`{path}` is damaged at byte {info.header_offset:,}", hint="download it again")
        offset = info.header_offset + _LOCAL_HEADER + int.from_bytes(header[26:28], "little")
        offset += int.from_bytes(header[28:30], "little")
        if offset + info.file_size > size:
            raise CheckpointError(f"`{path}` is cut short inside `{info.filename}`", hint="download it again")
        members[info.filename] = _Member(offset, info.file_size, info.CRC)
    return members


def _read_zip(path: Path, file: IO[bytes]) -> Pickled:
    members = _open_zip(path, file)
    roots = [name[: -len("/data.pkl")] for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise CheckpointError(f"`{path}` is a zip file, but not one that `torch.save` wrote")
    (root,) = roots
    if any(name.startswith(f"{root}/code/") for name in members):
        raise CheckpointError(f"`{path}` is a TorchScript program, not a checkpoint")
    if (order := members.get(f"{root}/byteorder")) is not None:
        file.seek(order.offset)
        if file.read(order.size) != b"little":
            raise CheckpointError(f"`{path}` was written by a big-endian machine, which is not supported")

    def locate(storage: Storage) -> Place:
        member = members.get(f"{root}/data/{storage.key}")
        if member is None or member.size < storage.bytes:
            raise CheckpointError(f"`{path}` is damaged: the data of storage {storage.key} are incomplete")
        return Place(member.offset, member.sum)

    pickle = members[f"{root}/data.pkl"]
    if pickle.size > MOST_PICKLE_BYTES:
        raise CheckpointError(f"`{path}` cannot be parsed: its pickle is larger than any checkpoint's")
    file.seek(pickle.offset)
    content = file.read(pickle.size)
    if pickle.crc32 and zlib.crc32(content) != pickle.crc32:
        raise CheckpointError(f"`{path}` is damaged: the checksum of its pickle differs", hint="download it again")
    machine = Machine(path, locate, Budget(path.stat().st_size))
    tree = machine.run(io.BytesIO(content))
    return Pickled(tree, machine.names(), "zip")


def _read_legacy(path: Path, file: IO[bytes]) -> Pickled:
    """Read the layout of torch < 1.6: pickles one after the other, then the storages.

    An unpickler runs all pickles of such a file, so the names of all are checked.
    """
    budget = Budget(path.stat().st_size)
    names: dict[str, None] = {}

    def run(locate: Locate) -> Any:
        machine = Machine(path, locate, budget)
        made = machine.run(file)
        names.update(machine.found)
        return made

    file.seek(0)
    for _ in range(3):  # the magic number, protocol version and system information
        run(no_storage)
    start = file.tell()
    storages: dict[str, Storage] = {}

    def remember(storage: Storage) -> Place:
        storages[storage.key] = storage
        return Place(0)

    run(remember)
    keys = run(no_storage)
    offsets = _storage_offsets(path, keys, storages, file.tell())

    def locate(storage: Storage) -> Place:
        if storage.key not in offsets:
            raise CheckpointError(f"`{path}` is damaged: the data of storage {storage.key[:40]} are missing")
        return Place(offsets[storage.key])

    file.seek(start)
    budget.tensor_bytes = Budget(path.stat().st_size).tensor_bytes
    tree = run(locate)
    return Pickled(tree, tuple(names), "legacy")


def _storage_offsets(path: Path, keys: Any, storages: Mapping[str, Storage], position: int) -> dict[str, int]:
    """Find where each storage of a legacy file begins; they lie one after the other from `position` on."""
    size = path.stat().st_size
    offsets: dict[str, int] = {}
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise CheckpointError(f"`{path}` is damaged: it does not list its storages")
    for key in keys:
        storage = storages.get(key)
        if storage is None:
            raise CheckpointError(f"`{path}` is damaged: it holds a storage {key[:40]} that nothing uses")
        offsets[key] = position + 8  # after the number of elements
        position = offsets[key] + storage.bytes
        if position > size:
            raise CheckpointError(f"`{path}` is cut short inside storage {key[:40]}", hint="download it again")
    if position < size:  # the layout has no checksum: this is all that tells bytes that were put in between
        raise CheckpointError(
            f"`{path}` is damaged: {size - position:,} bytes follow its last tensor", hint="download it again"
        )
    return offsets
