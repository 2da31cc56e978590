"""Detect whether a table uses csv quoting, from all of its fields, and split its lines into columns.

Most tables of speech are plain: every character but the separator is text, and many texts begin with a quotation mark,
at which a csv parser would merge rows. Other tables come from a csv writer, which quotes a field that contains the
separator, a line break or a quotation mark, and doubles the marks inside. No single line shows which of the two it is,
so the fields of the whole file decide.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ttstrain.data.readers.lines import Line
from ttstrain.data.readers.rows import TableError

FIELD_LIMIT = 1 << 27  # csv's own is 131,072 characters
WITNESSES = 10  # fields that only csv quoting explains, for each field that contradicts it


@dataclass(frozen=True, slots=True)
class Record:
    """One row, cut into columns."""

    number: int  # of its first line
    fields: list[str]
    unquoted: bool = False  # csv quotes were removed although the table is not comma-separated


def cut(path: Path, text: str, lines: Sequence[Line], delimiter: str) -> list[Record]:
    """Split a table into records: by the rules of csv if it is comma-separated or its fields show csv quoting."""
    if delimiter == ",":
        return [replace(record, unquoted=False) for record, _ in _csv_rows(path, text, delimiter)]
    if _has_quoted_field(lines, delimiter) and (records := _written_by_csv(path, text, delimiter)) is not None:
        return records
    return [_plain_record(line, delimiter) for line in lines]


def _has_quoted_field(lines: Sequence[Line], delimiter: str) -> bool:
    return any(line.text.startswith('"') or f'{delimiter}"' in line.text for line in lines)


def _plain_record(line: Line, delimiter: str) -> Record:
    """Split at every separator. A quoted field with doubled quotes inside is unquoted in any table."""
    written = line.text.split(delimiter)
    if '""' not in line.text:
        return Record(line.number, written)
    fields = [field[1:-1].replace('""', '"') if _is_doubled(field) else field for field in written]
    return Record(line.number, fields, unquoted=fields != written)


def _is_doubled(field: str) -> bool:
    """Tell whether a whole field is in quotes, with doubled ones and no single one inside."""
    inside = field[1:-1]
    quoted = len(field) > 1 and field[0] == field[-1] == '"'
    return quoted and '""' in inside and '"' not in inside.replace('""', "")


# ---------------------------------------------------------------- csv or not


def _written_by_csv(path: Path, text: str, delimiter: str) -> list[Record] | None:
    """Return the records of a table that a csv writer wrote; None if its fields show that none did."""
    try:
        rows = list(_csv_rows(path, text, delimiter))
    except TableError:
        return None
    usual = Counter(len(record.fields) for record, _ in rows).most_common(1)[0][0]
    written = [_raw_fields(raw, delimiter) if record.unquoted else _bare(record) for record, raw in rows]
    needed, against = 0, 0
    needless: Counter[int] = Counter()  # column -> fields in quotes without need
    for fields in written:
        for column, field in enumerate(fields):
            if not field.quoted:
                against += '"' in field.text
            elif _swallows_rows(field.text, delimiter, usual):
                against += 1
            elif _needs_quotes(field.text, delimiter):
                needed += 1
            else:
                needless[column] += 1
    for column, count in needless.items():
        if _is_quoted_throughout(written, column):
            needed += count
        else:
            against += count
    return [record for record, _ in rows] if needed and needed >= WITNESSES * against else None


@dataclass(frozen=True, slots=True)
class _Field:
    text: str  # without the quotes around it, doubled ones as they are written
    quoted: bool


def _bare(record: Record) -> list[_Field]:
    return [_Field(field, quoted=False) for field in record.fields]


def _raw_fields(raw: str, delimiter: str) -> list[_Field]:
    apart = re.escape(delimiter)
    pattern = re.compile(rf'(?:^|{apart})(?:"((?:[^"]|"")*)"(?=\Z|{apart})|([^{apart}]*))')
    found = pattern.finditer(raw)
    return [_Field(m[1] if m[1] is not None else m[2], quoted=m[1] is not None) for m in found]


def _needs_quotes(text: str, delimiter: str) -> bool:
    return delimiter in text or '"' in text or "\n" in text or "\r" in text


def _swallows_rows(text: str, delimiter: str, usual: int) -> bool:
    """Tell whether a field over several lines contains whole rows: the quotes belong to two different texts."""
    following = text.split("\n")[1:]
    return any(line.count(delimiter) + 1 >= usual for line in following)


def _is_quoted_throughout(written: Sequence[Sequence[_Field]], column: int) -> bool:
    body = [record[column].quoted for record in written[1:] if column < len(record)]  # the first may be a header
    return len(body) > 1 and all(body)


# ---------------------------------------------------------------- csv


def _csv_rows(path: Path, text: str, delimiter: str) -> Iterator[tuple[Record, str]]:
    """Yield records by the rules of csv, each with its raw lines."""
    with _long_fields():
        file = io.StringIO(text, newline="")
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        start, before = 1, 0
        try:
            for fields in reader:
                raw = text[before : file.tell()].rstrip("\r\n")
                if any(field.strip() for field in fields) and not fields[0].lstrip().startswith("#"):
                    yield Record(start, fields, unquoted='"' in raw), raw
                start, before = reader.line_num + 1, file.tell()
        except csv.Error as error:
            raise TableError(
                "delimiter",
                f"`{path}` looks comma-separated, but line {start} breaks the rules of csv: {error}",
                hint="write it as `id|text`, one row per line, or quote the fields",
            ) from error


@contextmanager
def _long_fields() -> Iterator[None]:
    before = csv.field_size_limit(FIELD_LIMIT)
    try:
        yield
    finally:
        csv.field_size_limit(before)
