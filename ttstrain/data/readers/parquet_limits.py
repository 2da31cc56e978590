"""Memory limits for reading a Parquet file: its unpacked size is known before anything is unpacked."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ttstrain.data.readers.lines import MOST_ROWS
from ttstrain.data.readers.parquet_pages import MOST_PAGES, DamagedPageError, Page, pages, row_groups
from ttstrain.data.readers.rows import TableError

ROWS_AT_A_TIME = 256
MOST_AT_A_TIME = 1 << 30  # bytes of the rows that are read together
MOST_UNPACKED = 256 << 20  # bytes of a page, or of a column in a row group; smaller ones are not checked
MOST_RATIO = 20  # unpacked to packed bytes; sound hardly compresses, texts to a fifth
MOST_FOOTER = 8 << 20  # bytes of the footer
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}  # other types hold bytes
_LEVELS = 4  # bytes of a value's repetition and definition levels
_MARKS = (b"PAR1", b"PARE")  # the last four bytes of a Parquet file
_TAIL = 8  # bytes at the end: the footer's length and a mark
_OBJECT = 40  # bytes of a number in a Python list


def read_footer(path: Path) -> bytes:
    """Read the footer; nothing where there is none, which pyarrow reports.

    Raises TableError for one that would take far more memory than a table of speech needs.
    """
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        if end < _TAIL:
            return b""
        file.seek(-_TAIL, os.SEEK_END)
        size, mark = int.from_bytes(file.read(4), "little"), file.read(4)
        if mark not in _MARKS or size > end - _TAIL:
            return b""
        if size > MOST_FOOTER:
            raise TableError(
                "unreadable",
                f"`{path}` has a table of contents of {size / (1 << 20):,.0f} MiB",
                hint="write it with fewer row groups, or get it again from a source you trust",
            )
        file.seek(-_TAIL - size, os.SEEK_END)
        return file.read(size)


def rows_at_a_time(
    path: Path, file: Any, footer: bytes, names: Collection[str], *, constant: Collection[str] = ()
) -> int:
    """Return how many rows of the named columns fit into memory together.

    A value that rows share is stored once and unpacked in each of them. Lists in the columns named `constant`, which
    are stored as a number and its count, may have any length. Sizes are taken from the page headers: those in the
    footer may be wrong. Raises DamagedPageError, and TableError for a file that unpacks to far more than its size.
    """
    if file.metadata.num_rows > MOST_ROWS:
        raise TableError("unreadable", f"`{path}` has more than {MOST_ROWS:,} rows", hint="train on a part of it")
    largest, num_pages = 1, 0
    leaves = [file.schema.column(number) for number in range(len(file.schema))]
    with path.open("rb") as content:
        for group in row_groups(footer):
            if len(group.columns) != len(leaves):
                raise DamagedPageError(f"it has {len(leaves)} columns, {len(group.columns)} in one of its row groups")
            for leaf, column in zip(leaves, group.columns, strict=True):
                name = leaf.path.partition(".")[0]
                if name not in names:
                    continue
                chunk = _Chunk(path, leaf, counted=name not in constant)
                for page in pages(content.fileno(), column.start, column.packed):
                    chunk.take(page)
                    if (num_pages := num_pages + 1) > MOST_PAGES:
                        raise DamagedPageError(f"it has more than {MOST_PAGES:,} pages")
                largest = max(largest, chunk.bytes_of_a_row(group.num_rows))
    return max(1, min(ROWS_AT_A_TIME, MOST_AT_A_TIME // largest))


class _Chunk:
    """The memory that one column of one row group needs, summed over its pages."""

    def __init__(self, path: Path, leaf: Any, *, counted: bool) -> None:
        self._path, self._name, self._repeated = path, leaf.path, leaf.max_repetition_level > 0
        width = _LEVELS + _WIDTHS.get(leaf.physical_type, 0)  # bytes of a value; byte strings come on top
        self._width = width if counted else 0
        self._of_bytes = leaf.physical_type not in _WIDTHS
        self._packed = self._unpacked = self._values = self._shared = 0

    def take(self, page: Page) -> None:
        """Add a page. Raises TableError if it, or all pages so far, unpack to far more than their size in the file."""
        self._check(page.packed, self._bytes(page.unpacked, page.values, page.unpacked if page.shares else 0))
        self._packed += page.packed
        self._unpacked += page.unpacked
        self._values += page.values
        self._shared += page.unpacked if page.shares else 0
        self._check(self._packed, self._bytes(self._unpacked, self._values, self._shared))

    def bytes_of_a_row(self, num_rows: int) -> int:
        """Return the bytes of one row: of the values that rows share, or of an average list as Python numbers."""
        shared = self._shared if self._of_bytes else 0
        return max(shared, self._values * _OBJECT // max(num_rows, 1) if self._repeated else 0)

    def _bytes(self, unpacked: int, values: int, shared: int) -> int:
        """Return the most bytes that a single row may need; several rows need not be in memory together."""
        in_lists = values * shared if self._repeated and self._of_bytes else 0
        return max(unpacked, values * self._width, in_lists)

    def _check(self, packed: int, unpacked: int) -> None:
        if unpacked > MOST_UNPACKED and unpacked > MOST_RATIO * packed:
            raise TableError(
                "unreadable",
                f"`{self._path}` unpacks `{self._name}` to {unpacked / packed:,.0f} times its size",
                hint="no table of speech does: get the file again, from a source you trust",
            )
