"""Read what `torch.save` wrote without executing any of it.

Python's unpickler imports and calls whatever a file names. This one is a stack machine of its own: a name is only ever
a name. The few that stand for containers and tensors are understood, every other object becomes an inert `Record`.
Tensors stay in the file (`StoredTensor`) until somebody reads them.
"""

from __future__ import annotations

import io
import mmap
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import torch

from ttstrain.checkpoint.tensorfile import StoredTensor
from ttstrain.errors import CheckpointError
from ttstrain.state import Tree

Container = Literal["zip", "legacy", "pickle"]

# Legacy files of torch < 1.6 start with this number, pickled: https://github.com/pytorch/pytorch torch/serialization.py
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LOCAL_HEADER = 30  # bytes of a zip member's header before its name
_HEADER_TAIL = b"\x03\x04"  # of the zip signature; GPT-SoVITS puts a version into the two bytes before it
_PICKLE_SUFFIX = ".pkl"
_PROBE = 1 << 20  # bytes looked at to tell whether something is a pickle of protocol 0 or 1, which have no signature


@dataclass(frozen=True, slots=True)
class Global:
    """A name in a pickle, never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True)
class Record:
    """What a pickle says about an object that is not rebuilt."""

    type: str  # dotted name of its class or of the function that would have made it
    args: tuple[Any, ...] = ()
    state: Any = None  # usually the object's `__dict__`
    items: list[Any] = field(default_factory=list)
    entries: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pickled:
    """The content of a pickled file; tensors are `StoredTensor`s."""

    tree: Tree
    globals: tuple[str, ...]  # every name in the file, once each, in order of appearance
    container: Container


# ---------------------------------------------------------------- files


def read(path: Path) -> Pickled:
    """Read a file of `torch.save`, of either of its layouts, or a bare pickle.

    The first two bytes of a zip may be anything: GPT-SoVITS keeps a version there. Raises CheckpointError when the
    file is cut short or holds something this cannot follow.
    """
    with path.open("rb") as file:
        head = file.read(4)
        if head[2:] == _HEADER_TAIL:
            return _read_zip(path, file)
        with _stream(file) as stream:
            if _first_object(stream, path) == _LEGACY_MAGIC:
                return _read_legacy(path, stream)
            stream.seek(0)
            machine = _Machine(path, _no_storage)
            return Pickled(machine.run(stream), machine.names(), "pickle")


def scan_globals(path: Path) -> list[str]:
    """List every name that the pickles in a file would import, even where they cannot be followed to their end."""
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
    """Yield (path, leaf) of every leaf of a tree that came out of a file, each container once."""
    seen: set[int] = set()
    stack: list[tuple[tuple[str, ...], Any]] = [((), tree)]
    while stack:
        path, node = stack.pop()
        children = _children(node)
        if children is None:
            yield path, node
        elif id(node) not in seen:
            seen.add(id(node))
            stack.extend(((*path, str(key)), value) for key, value in reversed(children))


def _children(node: Any) -> list[tuple[Any, Any]] | None:
    if isinstance(node, Mapping):
        return list(node.items())
    if isinstance(node, list | tuple):
        return list(enumerate(node))
    if isinstance(node, Record):
        return [("args", node.args), ("state", node.state), *enumerate(node.items), *node.entries.items()]
    return None


def _stream(file: IO[bytes]) -> IO[bytes]:
    """Map a file: reading what is not there then ends early, where a buffered file would first claim the memory."""
    mapped: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    stream: IO[bytes] = mapped  # it has all methods of a binary file that are used here
    return stream


def _first_object(file: IO[bytes], path: Path) -> Any:
    machine = _Machine(path, _no_storage)
    try:
        return machine.run(file)
    except CheckpointError:
        return None


def _scan(stream: IO[bytes], path: Path) -> list[str]:
    """Collect the names of one pickle: by running it, and where that fails by reading every opcode."""
    start = stream.tell()
    machine = _Machine(path, _anywhere)
    try:
        machine.run(stream)
    except CheckpointError:
        stream.seek(start)
        machine.found.update(dict.fromkeys(_visible_names(stream)))
    return list(machine.found)


def _visible_names(stream: IO[bytes]) -> Iterator[str]:
    """Yield the names in a damaged pickle, as far as its opcodes can be read; `read` is who reports the damage."""
    strings = ["?", "?"]
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name in ("GLOBAL", "INST"):
                module, _, name = str(argument).partition(" ")
                yield f"{_PYTHON3.get(module, module)}.{name}"
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
                yield io.BytesIO(file.read(member.size))
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


def _open_zip(path: Path, file: IO[bytes]) -> dict[str, _Member]:
    """Find every member's data. The central directory counts; of the local headers only the lengths are used."""
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, OSError) as error:
        raise CheckpointError(
            f"`{path}` is cut short or damaged: its end is missing", hint="download it again"
        ) from error
    size = path.stat().st_size
    members: dict[str, _Member] = {}
    for info in infos:
        if info.filename in members:
            raise CheckpointError(f"`{path}` holds `{info.filename}` twice, which no writer does")
        if info.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(
                f"`{path}` is compressed, which `torch.save` never does", hint="it may be an ordinary zip: unpack it"
            )
        file.seek(max(info.header_offset, 0))
        header = file.read(_LOCAL_HEADER)
        if header[2:4] != _HEADER_TAIL or (header[:2] != b"PK" and info.header_offset != 0):
            raise CheckpointError(f"`{path}` is damaged at byte {info.header_offset:,}", hint="download it again")
        offset = info.header_offset + _LOCAL_HEADER + int.from_bytes(header[26:28], "little")
        offset += int.from_bytes(header[28:30], "little")
        if offset + info.file_size > size:
            raise CheckpointError(f"`{path}` is cut short inside `{info.filename}`", hint="download it again")
        members[info.filename] = _Member(offset, info.file_size)
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

    def locate(storage: _Storage) -> int:
        member = members.get(f"{root}/data/{storage.key}")
        if member is None or member.size < storage.bytes:
            raise CheckpointError(f"`{path}` is damaged: the data of storage {storage.key} are not all there")
        return member.offset

    pickle = members[f"{root}/data.pkl"]
    file.seek(pickle.offset)
    machine = _Machine(path, locate)
    tree = machine.run(io.BytesIO(file.read(pickle.size)))
    return Pickled(tree, machine.names(), "zip")


def _read_legacy(path: Path, file: IO[bytes]) -> Pickled:
    """Read the layout of torch < 1.6: pickles one after the other, then the storages."""
    for _ in range(2):  # protocol version and system information
        _Machine(path, _no_storage).run(file)
    start = file.tell()
    storages: dict[str, _Storage] = {}

    def remember(storage: _Storage) -> int:
        storages[storage.key] = storage
        return 0

    _Machine(path, remember).run(file)
    keys = _Machine(path, _no_storage).run(file)
    offsets: dict[str, int] = {}
    position, size = file.tell(), path.stat().st_size
    for key in keys:
        storage = storages.get(key)
        if storage is None:
            raise CheckpointError(f"`{path}` is damaged: it holds a storage {key} that nothing uses")
        offsets[key] = position + 8  # after the number of elements
        position = offsets[key] + storage.bytes
        if position > size:
            raise CheckpointError(f"`{path}` is cut short inside storage {key}", hint="download it again")

    def locate(storage: _Storage) -> int:
        if storage.key not in offsets:
            raise CheckpointError(f"`{path}` is damaged: the data of storage {storage.key} are not there")
        return offsets[storage.key]

    file.seek(start)
    machine = _Machine(path, locate)
    tree = machine.run(file)
    return Pickled(tree, machine.names(), "legacy")


# ---------------------------------------------------------------- the machine


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    dtype: torch.dtype
    numel: int
    first: int = 0  # element at which a legacy view of the storage starts

    @property
    def bytes(self) -> int:
        return self.numel * self.dtype.itemsize


Locate = Callable[[_Storage], int]  # byte offset of a storage in its file


def _no_storage(storage: _Storage) -> int:
    raise CheckpointError(f"the pickle refers to storage {storage.key}, but the file has no storages")


def _anywhere(storage: _Storage) -> int:
    return 0


STORAGE_DTYPES: Mapping[str, torch.dtype] = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "UntypedStorage": torch.uint8,
}
_PYTHON3 = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # protocols up to 2 use Python 2's names
_MARK = object()


class _Machine:
    """Runs the opcodes of one pickle on a stack; the only things it can make are data."""

    def __init__(self, path: Path, locate: Locate) -> None:
        self.path = path
        self.locate = locate
        self.found: dict[str, None] = {}
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def names(self) -> tuple[str, ...]:
        return tuple(self.found)

    def run(self, stream: IO[bytes]) -> Tree:
        """Run to the STOP opcode and return what is left on the stack."""
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == "STOP":
                    return self.stack.pop()
                if opcode.name in _CONSTANTS:
                    self.stack.append(argument)
                else:
                    _OPCODES[opcode.name](self, argument)
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, EOFError, OverflowError) as error:
            detail = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise CheckpointError(
                f"`{self.path}` cannot be followed: its pickle is damaged ({detail[:120]})"
            ) from error
        raise CheckpointError(f"`{self.path}` is cut short inside its pickle", hint="download it again")

    # stack and memo

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value should be")
        return value

    def pop_to_mark(self) -> list[Any]:
        values: list[Any] = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def discard(self) -> None:
        self.stack.pop()  # POP also removes a mark

    def discard_to_mark(self) -> None:
        self.pop_to_mark()

    def top(self) -> Any:
        return self.stack[-1]

    def put(self, index: int) -> None:
        self.memo[index] = self.top()

    def next_memo(self) -> int:
        return len(self.memo)

    # containers

    def append(self, values: Sequence[Any]) -> None:
        target = self.top()
        (target.items if isinstance(target, Record) else _only(list, target)).extend(values)

    def set_items(self, flat: Sequence[Any]) -> None:
        target = self.top()
        entries = target.entries if isinstance(target, Record) else _only(dict, target)
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            entries[_hashable(key)] = value

    def add_items(self, values: Sequence[Any]) -> None:
        target = self.top()
        if isinstance(target, Record):
            target.items.extend(values)
        else:
            _only(set, target).update(_hashable(value) for value in values)

    # names and what is made from them

    def name(self, module: Any, name: Any) -> None:
        found = Global(_PYTHON3.get(_only(str, module), module), _only(str, name))
        self.found[str(found)] = None
        self.push(found)

    def call(self, function: Any, args: Any) -> Any:
        if not isinstance(function, Global):
            raise TypeError(f"a {type(function).__name__} is called")
        args = _only(tuple, args)
        known = KNOWN.get(str(function))
        return Record(str(function), args) if known is None else known(self, *args)

    def build(self, state: Any) -> None:
        target = self.top()
        if isinstance(target, Record):
            target.state = state
        # Attributes of a dict are a module's metadata, those of a tensor its hooks: nothing a checkpoint needs.

    def persistent(self, reference: Any) -> None:
        """Resolve ("storage", type, key, location, size[, view]) as `torch.save` writes it."""
        tag, kind, key, _, numel, *view = _only(tuple, reference)
        if tag != "storage":
            raise ValueError(f"a persistent id of kind {tag!r}")
        dtype = STORAGE_DTYPES[kind.name]
        storage = _Storage(_only(str, key), dtype, _count(numel))
        self.push(storage if not view or view[0] is None else self._view(storage, view[0]))

    @staticmethod
    def _view(storage: _Storage, view: Any) -> _Storage:
        _, first, _ = view
        return _Storage(storage.key, storage.dtype, storage.numel, _count(first))

    def tensor(
        self, storage: Any, offset: Any, shape: Any, strides: Any, dtype: torch.dtype | None = None
    ) -> StoredTensor:
        """Describe a tensor, making sure that it stays inside its storage."""
        storage = _only(_Storage, storage)
        shape, strides = tuple(map(_count, shape)), tuple(map(_count, strides))
        if len(shape) != len(strides):
            raise ValueError("a tensor's shape and strides disagree")
        dtype = dtype or storage.dtype
        start = (storage.first * storage.dtype.itemsize) + _count(offset) * dtype.itemsize
        begin = self.locate(storage)
        made = StoredTensor(self.path, begin + start, dtype, shape, strides if shape else ())
        if start + made.span * dtype.itemsize > storage.bytes:
            raise ValueError("a tensor reaches beyond its storage")
        return made


def _only(kind: type[Any], value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"a {type(value).__name__} where a {kind.__name__} should be")
    return value


def _count(value: Any) -> int:
    number: int = _only(int, value)
    if number < 0:
        raise ValueError("a negative size")
    return number


def _hashable(key: Any) -> Any:
    """Allow keys that hash without recursion: scalars and flat tuples of them."""
    if key is None or isinstance(key, str | bytes | int | float | complex | Global | Record | frozenset):
        return key
    if isinstance(key, tuple) and all(part is None or isinstance(part, str | bytes | int | float) for part in key):
        return key
    raise TypeError(f"a {type(key).__name__} as a key")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Opcodes that push their argument.
_CONSTANTS = _words(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES"
    " SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8"
)


def _pairs(flat: Sequence[Any]) -> dict[Any, Any]:
    return {_hashable(key): value for key, value in zip(flat[::2], flat[1::2], strict=True)}


def _new_object(machine: _Machine, with_keywords: bool) -> None:
    keywords = machine.pop() if with_keywords else {}
    args = _only(tuple, machine.pop())
    machine.push(machine.call(machine.pop(), (*args, keywords) if keywords else args))


def _stack_global(machine: _Machine) -> None:
    name = machine.pop()
    machine.name(machine.pop(), name)


def _instance(machine: _Machine, argument: str) -> None:
    args = tuple(machine.pop_to_mark())
    module, _, name = argument.partition(" ")
    machine.name(module, name)
    machine.push(machine.call(machine.pop(), args))


def _object(machine: _Machine) -> None:
    kind, *args = machine.pop_to_mark()
    machine.push(machine.call(kind, tuple(args)))


def _reduce(machine: _Machine) -> None:
    args = machine.pop()
    machine.push(machine.call(machine.pop(), args))


def _set_item(machine: _Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


def _tuple_of(machine: _Machine, size: int) -> None:
    values = [machine.pop() for _ in range(size)]
    machine.push(tuple(reversed(values)))


def _nothing(machine: _Machine, argument: Any) -> None:
    pass


_OPCODES: Mapping[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _nothing,
    "FRAME": _nothing,
    "MARK": lambda m, _: m.push(_MARK),
    "POP": lambda m, _: m.discard(),
    "POP_MARK": lambda m, _: m.discard_to_mark(),
    "DUP": lambda m, _: m.push(m.top()),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "EMPTY_SET": lambda m, _: m.push(set()),
    "LIST": lambda m, _: m.push(m.pop_to_mark()),
    "TUPLE": lambda m, _: m.push(tuple(m.pop_to_mark())),
    "TUPLE1": lambda m, _: _tuple_of(m, 1),
    "TUPLE2": lambda m, _: _tuple_of(m, 2),
    "TUPLE3": lambda m, _: _tuple_of(m, 3),
    "DICT": lambda m, _: m.push(_pairs(m.pop_to_mark())),
    "FROZENSET": lambda m, _: m.push(frozenset(map(_hashable, m.pop_to_mark()))),
    "APPEND": lambda m, _: m.append([m.pop()]),
    "APPENDS": lambda m, _: m.append(m.pop_to_mark()),
    "SETITEM": lambda m, _: _set_item(m),
    "SETITEMS": lambda m, _: m.set_items(m.pop_to_mark()),
    "ADDITEMS": lambda m, _: m.add_items(m.pop_to_mark()),
    "PUT": lambda m, index: m.put(index),
    "BINPUT": lambda m, index: m.put(index),
    "LONG_BINPUT": lambda m, index: m.put(index),
    "MEMOIZE": lambda m, _: m.put(m.next_memo()),
    "GET": lambda m, index: m.push(m.memo[index]),
    "BINGET": lambda m, index: m.push(m.memo[index]),
    "LONG_BINGET": lambda m, index: m.push(m.memo[index]),
    "GLOBAL": lambda m, names: m.name(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: _stack_global(m),
    "INST": _instance,
    "OBJ": lambda m, _: _object(m),
    "NEWOBJ": lambda m, _: _new_object(m, with_keywords=False),
    "NEWOBJ_EX": lambda m, _: _new_object(m, with_keywords=True),
    "REDUCE": lambda m, _: _reduce(m),
    "BUILD": lambda m, _: m.build(m.pop()),
    "PERSID": lambda m, reference: m.persistent(reference),
    "BINPERSID": lambda m, _: m.persistent(m.pop()),
}


# ---------------------------------------------------------------- the names that are understood


def _ordered_dict(machine: _Machine, pairs: Sequence[Any] = ()) -> dict[Any, Any]:
    return {_hashable(key): value for key, value in pairs}


def _tensor(machine: _Machine, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> StoredTensor:
    return machine.tensor(storage, offset, shape, strides)


def _tensor_of_dtype(machine: _Machine, *args: Any) -> StoredTensor:
    storage, offset, shape, strides, _, _, dtype, *_ = args
    return machine.tensor(storage, offset, shape, strides, TORCH_DTYPES[str(dtype)])


def _encode(machine: _Machine, text: Any, encoding: Any) -> bytes:
    """Rebuild bytes the way protocol 2 spells them."""
    if encoding != "latin1":
        raise ValueError("bytes in an encoding that pickles do not use")
    data: bytes = _only(str, text).encode("latin1")
    return data


TORCH_DTYPES = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}
KNOWN: Mapping[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": lambda machine, factory=None: {},
    "collections.Counter": lambda machine, counts=None: dict(counts or {}),
    "builtins.set": lambda machine, values=(): set(map(_hashable, values)),
    "builtins.frozenset": lambda machine, values=(): frozenset(map(_hashable, values)),
    "copyreg._reconstructor": lambda machine, kind, base, state: Record(str(kind)),
    "copyreg.__newobj__": lambda machine, kind, *args: machine.call(kind, args),
    "_codecs.encode": _encode,
    "torch.Size": lambda machine, sizes=(): tuple(sizes),
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": lambda machine, tensor, *_: tensor,
    "torch._utils._rebuild_parameter_with_state": lambda machine, tensor, *_: tensor,
    "torch._tensor._rebuild_from_type_v2": lambda machine, function, kind, args, *_: machine.call(function, args),
}
