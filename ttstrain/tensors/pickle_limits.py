"""Limits on what reading a pickle may cost: no checkpoint comes near, and a hostile file is refused within seconds.

A pickle of some bytes can describe terabytes: an opcode of two bytes repeats an object, and a view repeats
what a storage holds.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from typing import Any, Protocol

MOST_OPERATIONS = 10_000_000  # opcodes and elements they copy; a tensor takes about forty
SCANNED_OPERATIONS = 1_000_000  # opcodes scanned for names in a pickle that cannot be run
MOST_PICKLE_BYTES = 256 << 20
MOST_DIRECTORY_BYTES = 32 << 20  # of a zip: some 400,000 members
MOST_REPEATS = 16  # bytes of all tensors over those stored: tied weights and views repeat them
SPARE_BYTES = 64 << 30  # bytes of all tensors that a small file may describe in any case: some files only hold shapes
LARGEST_VIEW = 4 << 30  # bytes of one tensor that repeats what is stored; the largest table of a 3B net takes 2
MOST_NODES = 4_000_000  # nodes of a tree; a container that is used twice counts twice
MOST_BITS = 512  # of an integer
DEEPEST = 100  # levels of nested containers
LONGEST_NAME = 4_000  # letters of a key, with those of the containers it lies in
DEEPEST_CALL = 8  # nested rebuild calls


class TooLargeError(ValueError):
    """A file asks for more than any checkpoint needs."""


class Budget:
    """What is left of the limits for one file."""

    def __init__(self, file_bytes: int, operations: int | None = None) -> None:
        self.operations = MOST_OPERATIONS if operations is None else operations
        self.tensor_bytes = MOST_REPEATS * file_bytes + SPARE_BYTES

    def spend(self, operations: int) -> None:
        """Subtract operations. Raises TooLargeError when none is left."""
        self.operations -= operations
        if self.operations < 0:
            raise TooLargeError("it has more operations than any checkpoint")

    def describe(self, tensor_bytes: int, *, stored_bytes: int) -> None:
        """Subtract the bytes of one tensor, of which `stored` are in the file.

        Raises TooLargeError when this tensor, or all together, would take far more memory than the file holds.
        """
        self.tensor_bytes -= tensor_bytes
        if tensor_bytes > MOST_REPEATS * stored_bytes + LARGEST_VIEW:
            raise TooLargeError(f"a tensor in it takes {tensor_bytes / 2**30:,.0f} GiB, of which little is stored")
        if self.tensor_bytes < 0:
            raise TooLargeError("its tensors take far more memory than the file holds")


class MappedFile(mmap.mmap):
    """A memory-mapped file that refuses to read more than `MOST_PICKLE_BYTES` at once."""

    def read(self, n: int | None = None) -> bytes:
        if n is not None and n > MOST_PICKLE_BYTES:
            raise TooLargeError("one value in it is larger than any checkpoint's")
        return super().read(n)

    def readline(self) -> bytes:
        start = self.tell()
        if self.find(b"\n", start, start + MOST_PICKLE_BYTES) < 0:
            raise TooLargeError("a line in it does not end")
        return super().readline()


class _Readable(Protocol):
    def read(self, n: int = -1, /) -> bytes: ...
    def seek(self, offset: int, whence: int = 0, /) -> int: ...
    def tell(self) -> int: ...


class BoundedReads:
    """A file from which a zip's directory can be read, unless it claims to be huge."""

    def __init__(self, file: _Readable) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, n: int = -1) -> bytes:
        if n > MOST_DIRECTORY_BYTES:
            raise ValueError("its table of contents is larger than any checkpoint's")
        return self._file.read(n)


def check_tree(tree: Any) -> None:
    """Raise TooLargeError for a tree of plain containers that holds itself, is too deep, or repeats itself too often.

    A container that is used in several places counts each time, as walking the tree visits it each time.
    """
    sizes: dict[int, int | None] = {}  # id -> nodes below, itself included; None while its children are counted
    depths: dict[int, int] = {}
    stack: list[Any] = [tree]
    while stack:
        node = stack[-1]
        children = [child for child in _children(node) if isinstance(child, dict | list | tuple)]
        state = sizes.get(id(node), -1)
        if state == -1:
            sizes[id(node)] = None
            for child in children:
                if sizes.get(id(child), -1) is None:
                    raise TooLargeError("a container in it holds itself")
                if id(child) not in sizes:
                    stack.append(child)
            continue
        stack.pop()
        if state is not None:
            continue  # counted already, through another parent
        sizes[id(node)] = total = 1 + sum(sizes[id(child)] or 0 for child in children) + len(_children(node))
        depths[id(node)] = depth = 1 + max((depths[id(child)] for child in children), default=0)
        if total > MOST_NODES:
            raise TooLargeError("its containers repeat each other more often than in any checkpoint")
        if depth > DEEPEST:
            raise TooLargeError(f"its containers are nested more than {DEEPEST} deep")


def _children(node: Any) -> Any:
    if isinstance(node, Mapping):
        return node.values()
    return node if isinstance(node, list | tuple) else ()
