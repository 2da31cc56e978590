"""Read the unpacked sizes of a Parquet file's pages from their headers, without unpacking.

The footer states sizes too, but a damaged or hostile file may state anything there: a reader allocates what each page's
own header says. The footer says where the pages are; pyarrow, asked for that, ends the process where its statistics are
of a wrong length. Both are structs in Thrift's compact protocol, numbered as in the Parquet format's `parquet.thrift`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MOST_PAGES = 1_000_000  # of a file; a page holds about a megabyte
MOST_HEADER = 1 << 20  # bytes: a header may contain the page's least and greatest value
_FIRST_READ = 1 << 10
_MOST_DEPTH = 8
_DICTIONARY_PAGE = 2
_SHARING = (2, 7, 8)  # encodings that store a value of many rows once: two of dictionaries, DELTA_BYTE_ARRAY
_TYPE, _UNPACKED, _PACKED = 1, 2, 3  # fields of a header
_ROW_GROUPS, _COLUMNS, _META_DATA, _NUM_ROWS = 4, 1, 3, 3  # fields of the footer, of a row group, of a column
_SIZE, _DATA, _DICTIONARY = 7, 9, 11  # fields of a column's meta data: bytes, and where its first pages are
_VALUES_AND_ENCODING = {5: (1, 2), 7: (1, 2), 8: (1, 4)}  # of a data page, a dictionary, a data page of version 2


class DamagedPageError(ValueError):
    """The footer or a page's header cannot be read, or there are more pages than any table needs."""


@dataclass(frozen=True, slots=True)
class Column:
    """The place of one column of one row group; columns are in the schema's order."""

    start: int  # byte of its first page
    packed: int  # bytes of its pages


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Rows that are stored together."""

    num_rows: int
    columns: tuple[Column, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """One page, in bytes and in values."""

    packed: int
    unpacked: int
    values: int  # rows, or elements of lists; 0 for those of a dictionary
    shares: bool  # whether one stored value may belong to many rows


def row_groups(footer: bytes) -> list[RowGroup]:
    """Return the row groups that a footer lists. Raises DamagedPageError."""
    try:
        groups = _Struct(footer).fields.get(_ROW_GROUPS, [])
        return [
            RowGroup(_number(group[_NUM_ROWS]), tuple(_column(one[_META_DATA]) for one in group[_COLUMNS]))
            for group in groups
        ]
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        raise DamagedPageError("its table of contents does not say where its columns are") from error


def _column(stated: dict[int, Any]) -> Column:
    data = _number(stated[_DATA])
    dictionary = _number(stated.get(_DICTIONARY, 0))  # 0: it has none
    return Column(min(dictionary or data, data), _number(stated[_SIZE]))


def _number(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError
    return value


def pages(descriptor: int, start: int, length: int) -> Iterator[Page]:
    """Yield the pages of one column in one row group, which begins at byte `start`.

    Raises DamagedPageError.
    """
    at, end = start, start + length
    while at < end:
        size, header = _header(descriptor, at)
        packed, unpacked = header.get(_PACKED), header.get(_UNPACKED)
        if not isinstance(packed, int) or not isinstance(unpacked, int) or packed < 0 or unpacked < 0:
            raise DamagedPageError(f"the page at byte {at:,} does not say how large it is")
        values, encoding = _content(header)
        dictionary = header.get(_TYPE) == _DICTIONARY_PAGE
        yield Page(size + packed, unpacked, 0 if dictionary else values, dictionary or encoding in _SHARING)
        at += size + packed


def _content(header: dict[int, Any]) -> tuple[int, int]:
    """Return how many values a page holds, and by which encoding."""
    for field, (values, encoding) in _VALUES_AND_ENCODING.items():
        if isinstance(inner := header.get(field), dict):
            found = inner.get(values), inner.get(encoding)
            if isinstance(found[0], int) and isinstance(found[1], int) and found[0] >= 0:
                return found[0], found[1]
            raise DamagedPageError("a page does not say how many values it holds")
    return 0, 0  # of an index


def _header(descriptor: int, at: int) -> tuple[int, dict[int, Any]]:
    room = _FIRST_READ
    while True:
        content = os.pread(descriptor, room, at)
        try:
            reader = _Struct(content)
            return reader.at, reader.fields
        except IndexError:
            if len(content) < room or room >= MOST_HEADER:
                raise DamagedPageError(f"the page at byte {at:,} has no header") from None
            room *= 8


class _Struct:
    """One struct of Thrift's compact protocol: its numbers, texts, lists and inner structs by field, and where it ends.

    Raises IndexError where the content ends before it.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.at = 0
        self.fields = self._fields(0)

    def _fields(self, depth: int) -> dict[int, Any]:
        if depth > _MOST_DEPTH:
            raise DamagedPageError("its table of contents or a page's header is too deep")
        found: dict[int, Any] = {}
        field = 0
        while (head := self._byte()) & 0x0F:
            field = field + (head >> 4) if head >> 4 else self._number()
            kind = head & 0x0F
            found[field] = kind == 1 if kind in (1, 2) else self._value(kind, depth)
        return found

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (1, 2, 3):  # a boolean in a list, or one byte
            return self._byte()
        if kind in (4, 5, 6):
            return self._number()
        if kind == 7:
            return self._bytes(8)
        if kind == 8:
            return self._bytes(self._varint())
        if kind in (9, 10):
            return self._list(depth)
        if kind == 12:
            return self._fields(depth + 1)
        raise DamagedPageError(f"its table of contents or a page's header holds a value of type {kind}")

    def _list(self, depth: int) -> Any:
        head = self._byte()
        count = head >> 4 if head >> 4 < 15 else self._varint()
        if head & 0x0F in (1, 2, 3):
            return self._bytes(count)
        # Each element takes at least a byte: a false count ends in IndexError.
        return [self._value(head & 0x0F, depth + 1) for _ in range(count)]

    def _bytes(self, size: int) -> bytes:
        start, self.at = self.at, self.at + size
        if self.at > len(self._content):
            raise IndexError
        return self._content[start : self.at]

    def _byte(self) -> int:
        byte = self._content[self.at]
        self.at += 1
        return byte

    def _varint(self) -> int:
        number = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
        raise DamagedPageError("a number in its table of contents or a page's header does not end")

    def _number(self) -> int:
        number = self._varint()
        return (number >> 1) ^ -(number & 1)
