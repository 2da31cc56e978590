"""A stack machine for pickles that executes nothing: names are recorded, never imported or called.

The few names that stand for containers and tensors are understood, every other object becomes an inert `Record`.

Why not a subclass of `pickle.Unpickler` that finds no class: its C code hashes nested tuples by recursion, so a key
nested 300,000 deep ends the process with a segmentation fault; a memo index of ten bytes makes it claim 16 GiB; and its
BUILD sets attributes of whatever lies on the stack. A check that foresees all of this has to follow the stack as well,
which takes as long as this machine does. torch's `weights_only` is a machine of its own too.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch

from ttstrain.errors import CheckpointError
from ttstrain.state import Tree
from ttstrain.tensors.pickle_limits import (
    DEEPEST_CALL,
    LONGEST_NAME,
    MOST_BITS,
    Budget,
    TooLargeError,
    check_tree,
)
from ttstrain.tensors.tensorfile import MOST_DIMENSIONS, StoredSum, StoredTensor, check_shape


@dataclass(frozen=True, slots=True)
class Global:
    """A name in a pickle, never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True, repr=False)
class Record:
    """What a pickle says about an object that is not rebuilt."""

    type: str  # dotted name of its class or of the function that would have made it
    args: tuple[Any, ...] = ()
    state: Any = None  # usually the object's `__dict__`
    items: list[Any] = field(default_factory=list)
    entries: dict[Any, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<{self.type}>"  # without its content, which may be of any size


@dataclass(frozen=True, slots=True)
class Storage:
    key: str
    dtype: torch.dtype
    numel: int
    first: int = 0  # element at which a legacy view of the storage starts

    @property
    def bytes(self) -> int:
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Place:
    """Where a storage lies in its file, and its checksum if the file has one."""

    offset: int  # in bytes
    sum: StoredSum | None = None


Locate = Callable[[Storage], Place]


def no_storage(storage: Storage) -> Place:
    """Refuse storages: for files that hold none."""
    raise CheckpointError(f"the pickle refers to storage {storage.key}, but the file has no storages")


def anywhere(storage: Storage) -> Place:
    """Return a dummy place: for scans that only collect names."""
    return Place(0)


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
PYTHON3 = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # protocols up to 2 use Python 2's names
_MARK = object()
_TUPLE_KEY = 1_000  # operations that a tuple costs as a key


class Machine:
    """Runs the opcodes of one pickle on a stack; the only things it can make are data."""

    def __init__(self, path: Path, locate: Locate, budget: Budget) -> None:
        self.path = path
        self.locate = locate
        self.budget = budget
        self.calls = 0  # depth of nested calls
        self.found: dict[str, None] = {}
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def names(self) -> tuple[str, ...]:
        return tuple(self.found)

    def run(self, stream: IO[bytes]) -> Tree:
        """Run to the STOP opcode and return what is left on the stack."""
        try:
            for opcode, argument, _ in pickletools.genops(stream):  # ends with the STOP opcode, or raises ValueError
                cost, act = _OPCODES[opcode.name]
                self.budget.spend(cost)
                act(self, argument)
            tree = self.stack.pop()
            check_tree(tree)
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, EOFError, OverflowError) as error:
            raise CheckpointError(f"`{self.path}` cannot be parsed: {_why(error)}") from error
        return tree

    # stack and memo

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a mark instead of a value")
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
        entries.update(self.pairs(zip(flat[::2], flat[1::2], strict=True)))

    def add_items(self, values: Sequence[Any]) -> None:
        target = self.top()
        if isinstance(target, Record):
            target.items.extend(values)
        else:
            _only(set, target).update(map(self.key, values))

    def key(self, key: Any) -> Any:
        """Allow keys that hash without recursion: scalars and short tuples of them.

        Neither numbers below 64 bits nor texts can be chosen to have equal hashes. Tuples of numbers can, and each
        such key is compared with all others: so a tuple costs as much as a thousand operations.
        """
        if isinstance(key, tuple) and len(key) <= MOST_DIMENSIONS and all(map(_is_plain_key, key)):
            self.budget.spend(_TUPLE_KEY)
            return key
        if not _is_plain_key(key) and not isinstance(key, Global | Record):
            raise TypeError(f"a {type(key).__name__} as a key")
        return key

    def pairs(self, entries: Iterable[Any]) -> dict[Any, Any]:
        """Make a dict of pairs."""
        return {self.key(key): value for key, value in map(_pair, entries)}

    # names and what is made from them

    def name(self, module: Any, name: Any) -> None:
        found = Global(PYTHON3.get(_only(str, module), module), _only(str, name))
        if len(str(found)) > LONGEST_NAME:
            raise TooLargeError(f"it holds a name of {len(str(found)):,} characters")
        self.found[str(found)] = None
        self.push(found)

    def call(self, function: Any, args: Any) -> Any:
        if not isinstance(function, Global):
            raise TypeError(f"a {type(function).__name__} is called")
        args = _only(tuple, args)
        known = KNOWN.get(str(function))
        if known is None:
            return Record(str(function), args)
        self.budget.spend(len(args))
        self.calls += 1
        if self.calls > DEEPEST_CALL:
            raise TooLargeError("its calls go deeper than any checkpoint's")
        made = known(self, *args)
        self.calls -= 1
        return made

    def elements(self, values: Any) -> Sequence[Any]:
        """Return the elements to fill a container with, from a list, a tuple or the entries of a dict."""
        values = list(values.items()) if isinstance(values, dict) else values
        if not isinstance(values, list | tuple):
            raise TypeError(f"a container is filled from a {type(values).__name__}")
        self.budget.spend(len(values))
        return values

    def build(self, state: Any) -> None:
        target = self.top()
        if isinstance(target, Record):
            target.state = state
        # Attributes of a dict are a module's metadata, those of a tensor its hooks: nothing a checkpoint needs.

    def persistent(self, reference: Any) -> None:
        """Resolve ("storage", type, key, location, size[, view]) as `torch.save` writes it."""
        tag, kind, key, _, numel, *view = _only(tuple, reference)
        if tag != "storage":
            raise ValueError("a persistent id that is no storage's")
        dtype = STORAGE_DTYPES[_only(Global, kind).name]
        storage = Storage(_only(str, key), dtype, _count(numel))
        self.push(storage if not view or view[0] is None else self._view(storage, view[0]))

    @staticmethod
    def _view(storage: Storage, view: Any) -> Storage:
        _, first, _ = view
        return Storage(storage.key, storage.dtype, storage.numel, _count(first))

    def tensor(
        self, storage: Any, offset: Any, shape: Any, strides: Any, dtype: torch.dtype | None = None
    ) -> StoredTensor:
        """Describe a tensor, making sure that it stays inside its storage."""
        storage = _only(Storage, storage)
        shape, strides = _sizes(shape), _sizes(strides)
        if len(shape) != len(strides):
            raise ValueError("a tensor's shape and strides disagree")
        check_shape(shape)
        dtype = dtype or storage.dtype
        start = (storage.first * storage.dtype.itemsize) + _count(offset) * dtype.itemsize
        place = self.locate(storage)
        made = StoredTensor(self.path, place.offset + start, dtype, shape, strides if shape else (), sum=place.sum)
        if start + made.span * dtype.itemsize > storage.bytes:
            raise ValueError("a tensor reaches beyond its storage")
        self.budget.describe(made.numel * dtype.itemsize, stored_bytes=made.span * dtype.itemsize)
        return made


def _only(kind: type[Any], value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"a {type(value).__name__} instead of a {kind.__name__}")
    return value


def _count(value: Any) -> int:
    number: int = _only(int, value)
    if number < 0:
        raise ValueError("a negative size")
    return number


def _sizes(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list | tuple) or len(values) > MOST_DIMENSIONS:
        raise ValueError(f"a shape that is not one of up to {MOST_DIMENSIONS} sizes")
    return tuple(map(_count, values))


def _small(constant: Any) -> Any:
    if isinstance(constant, int) and constant.bit_length() > MOST_BITS:
        raise TooLargeError(f"a number of {constant.bit_length():,} bits")
    return constant


def _is_plain_key(key: Any) -> bool:
    if isinstance(key, int):
        return key.bit_length() < 64
    return key is None or isinstance(key, str | bytes | float)


def _why(error: Exception) -> str:
    """Say why a pickle cannot be followed, without showing what is in it."""
    if isinstance(error, TooLargeError):
        return str(error)
    detail = f": {error}" if type(error) in (ValueError, TypeError) else ""
    return f"its pickle is damaged ({type(error).__name__}{detail[:120]})"


def _new_object(machine: Machine, with_keywords: bool) -> None:
    keywords = machine.pop() if with_keywords else {}
    args = _only(tuple, machine.pop())
    machine.push(machine.call(machine.pop(), (*args, keywords) if keywords else args))


def _stack_global(machine: Machine) -> None:
    name = machine.pop()
    machine.name(machine.pop(), name)


def _instance(machine: Machine, argument: str) -> None:
    args = tuple(machine.pop_to_mark())
    module, _, name = argument.partition(" ")
    machine.name(module, name)
    machine.push(machine.call(machine.pop(), args))


def _object(machine: Machine) -> None:
    kind, *args = machine.pop_to_mark()
    machine.push(machine.call(kind, tuple(args)))


def _reduce(machine: Machine) -> None:
    args = machine.pop()
    machine.push(machine.call(machine.pop(), args))


def _dict(machine: Machine) -> None:
    flat = machine.pop_to_mark()
    machine.push({})
    machine.set_items(flat)


def _set_item(machine: Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


def _tuple_of(machine: Machine, size: int) -> None:
    values = [machine.pop() for _ in range(size)]
    machine.push(tuple(reversed(values)))


def _data(machine: Machine, argument: Any) -> None:
    machine.push(_small(argument))


def _get(machine: Machine, index: int) -> None:
    machine.push(machine.memo[index])


Act = Callable[[Machine, Any], None]
_PLAIN: Mapping[str, Act] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda m, _: None),
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"), _data),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"), _data),
    **dict.fromkeys(("BYTEARRAY8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _data),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _get),
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
    "DICT": lambda m, _: _dict(m),
    "FROZENSET": lambda m, _: m.push(frozenset(map(m.key, m.pop_to_mark()))),
    "APPEND": lambda m, _: m.append([m.pop()]),
    "APPENDS": lambda m, _: m.append(m.pop_to_mark()),
    "SETITEM": lambda m, _: _set_item(m),
    "SETITEMS": lambda m, _: m.set_items(m.pop_to_mark()),
    "ADDITEMS": lambda m, _: m.add_items(m.pop_to_mark()),
    "MEMOIZE": lambda m, _: m.put(m.next_memo()),
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
# Opcodes that allocate more than a pointer or a small object cost more: an empty set takes two hundred bytes.
_COSTS = {"EMPTY_SET": 4, "SETITEM": 2, "REDUCE": 4, "NEWOBJ": 4, "NEWOBJ_EX": 4, "OBJ": 4, "INST": 4, "BUILD": 2}
_OPCODES: Mapping[str, tuple[int, Act]] = {name: (_COSTS.get(name, 1), act) for name, act in _PLAIN.items()}


# ---------------------------------------------------------------- the names that are understood


def _ordered_dict(machine: Machine, pairs: Sequence[Any] = ()) -> dict[Any, Any]:
    return machine.pairs(machine.elements(pairs))


def _pair(entry: Any) -> tuple[Any, Any]:
    key, value = entry if isinstance(entry, list | tuple) else ()
    return key, value


def _tensor(machine: Machine, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> StoredTensor:
    return machine.tensor(storage, offset, shape, strides)


def _tensor_of_dtype(machine: Machine, *args: Any) -> StoredTensor:
    storage, offset, shape, strides, _, _, dtype, *_ = args
    return machine.tensor(storage, offset, shape, strides, TORCH_DTYPES[str(_only(Global, dtype))])


def _encode(machine: Machine, text: Any, encoding: Any) -> bytes:
    """Rebuild bytes from protocol 2's encoding, a latin-1 text."""
    if encoding != "latin1":
        raise ValueError("bytes in an encoding that pickles do not use")
    machine.budget.spend(len(_only(str, text)) // 64)
    data: bytes = text.encode("latin1")
    return data


def _counter(machine: Machine, counts: Any = ()) -> dict[Any, Any]:
    return machine.pairs(machine.elements(counts or ()))


TORCH_DTYPES = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}
KNOWN: Mapping[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": lambda machine, factory=None: {},
    "collections.Counter": _counter,
    "builtins.set": lambda machine, values=(): set(map(machine.key, machine.elements(values))),
    "builtins.frozenset": lambda machine, values=(): frozenset(map(machine.key, machine.elements(values))),
    "copyreg._reconstructor": lambda machine, kind, base, state: Record(str(_only(Global, kind))),
    "copyreg.__newobj__": lambda machine, kind, *args: machine.call(kind, args),
    "_codecs.encode": _encode,
    "torch.Size": lambda machine, sizes=(): _sizes(sizes),
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": lambda machine, tensor, *_: tensor,
    "torch._utils._rebuild_parameter_with_state": lambda machine, tensor, *_: tensor,
    "torch._tensor._rebuild_from_type_v2": lambda machine, function, kind, args, *_: machine.call(function, args),
}
