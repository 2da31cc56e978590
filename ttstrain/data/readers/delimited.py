"""Tables with one recording per line: LJSpeech, F5 csv, GPT-SoVITS list, and csv or tsv with a header.

With `|` or a tab every other character is content, quotes included: a csv parser with its usual quoting would swallow
the rows that follow an opening quote. Only comma-separated tables are read by csv rules.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from ttstrain.data.readers.collect import Collector, stem, unquoted
from ttstrain.data.readers.columns import (
    COMMA_SEPARATED,
    GPT_SOVITS_LIST,
    LJSPEECH,
    Layout,
    language_code,
    layout_of,
    plain,
)
from ttstrain.data.readers.gpt_sovits_list import folders_beside, with_plain_bars
from ttstrain.data.readers.lines import Line, read_text, split_lines
from ttstrain.data.readers.rows import Format, Row, RowTable, TableError, printable

Delimiter = Literal["|", "\t", ","]
DelimitedFormat = Literal["ljspeech", "f5_csv", "gpt_sovits_list", "audiofolder"]
FIELD_LIMIT = 1 << 27  # csv's own is 131,072 characters
GPT_SOVITS_LANGUAGES = {
    "zh", "jp", "ja", "en", "ko", "yue", "all_zh", "all_ja", "all_yue", "all_ko", "auto", "auto_yue",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Record:
    """One line, cut into columns."""

    number: int
    fields: list[str]


def read_delimited(path: Path, root: Path, wanted: DelimitedFormat | None) -> RowTable:
    """Read a table; without a format, tell which one it is by its content."""
    text = read_text(path)
    comments, lines = _without_comments(split_lines(text))
    lines, changed = with_plain_bars(lines, is_list=wanted == "gpt_sovits_list" or path.suffix == ".list")
    if not lines:
        raise TableError("no_rows", f"`{path}` holds no rows", hint="each line should be `id|text`")
    delimiter = find_delimiter(path, [line.text for line in lines])
    records = _csv_records(path, text) if delimiter == "," else _plain_records(lines, delimiter)
    header = records[0].fields
    kind = wanted or recognise(path, records)
    layout, has_header = _layout(path, kind, header, delimiter)
    body = records[1:] if has_header else records
    if not body:
        raise TableError("no_rows", f"`{path}` holds a header and no rows")
    _check_columns(path, kind, body)
    collector = Collector(root, kind, files_anywhere=kind in ("f5_csv", "gpt_sovits_list"))
    for line in comments:
        comment = Record(line.number, [line.text])
        collector.judge(_row(comment, path, layout), "accept", "comment", "a comment, not a row")
    if has_header and kind == "ljspeech":
        why = f"the header `{printable(delimiter.join(header))}` is no row"
        collector.judge(_row(records[0], path, layout), "fix", "header_row", why)
    if delimiter != "|" and not has_header:
        named = "tabs" if delimiter == "\t" else "commas, with csv quoting"
        collector.judge(_row(body[0], path, layout), "accept", "delimiter", f"the columns are separated by {named}")
    for record in body:
        _take(collector, record, path, layout)
        if record.number in changed:
            why = "its columns are separated by bars that only look like `|`, such as the full-width `｜`: read as `|`"
            collector.judge(_row(record, path, layout), "fix", "bars", why)
    return collector.table()


def recognise(path: Path, records: Sequence[Record]) -> DelimitedFormat:
    """Tell a format by its header, or by languages in the third of four columns."""
    named = layout_of(records[0].fields)
    if named is not None and not named.audio_is_id:
        return "audiofolder" if plain(records[0].fields[named.audio]) == "file_name" else "f5_csv"
    languages = [r.fields[2].strip().lower() in GPT_SOVITS_LANGUAGES for r in records[:100] if len(r.fields) == 4]
    if path.suffix == ".list" or (languages and sum(languages) > len(records[:100]) / 2):
        return "gpt_sovits_list"
    return "ljspeech"


def find_delimiter(path: Path, lines: Sequence[str]) -> Delimiter:
    """Return the first of `|`, tab and comma that half of the lines hold."""
    sample = lines[:200]
    candidates: tuple[Delimiter, ...] = ("|", "\t", ",")
    for delimiter in candidates:
        if sum(delimiter in line for line in sample) * 2 >= len(sample):
            return delimiter
    raise TableError(
        "delimiter",
        f"`{path}` has no column separator: its first line is `{printable(lines[0])}`",
        hint="each line should be `id|text` or `id|text|normalised text`",
    )


# ---------------------------------------------------------------- lines into columns


def _without_comments(lines: Sequence[Line]) -> tuple[list[Line], list[Line]]:
    comments = [line for line in lines if line.text.lstrip().startswith("#") and "|" not in line.text]
    numbers = {line.number for line in comments}
    return comments, [line for line in lines if line.number not in numbers]


def _plain_records(lines: Sequence[Line], delimiter: Delimiter) -> list[Record]:
    return [Record(line.number, line.text.split(delimiter)) for line in lines]


def _csv_records(path: Path, text: str) -> list[Record]:
    records = []
    with _long_fields():
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        start = 1
        try:
            for fields in reader:
                if any(field.strip() for field in fields) and not fields[0].lstrip().startswith("#"):
                    records.append(Record(start, fields))
                start = reader.line_num + 1
        except csv.Error as error:
            raise TableError(
                "delimiter",
                f"`{path}` looks comma-separated, but line {start} breaks the rules of csv: {error}",
                hint="write it as `id|text`, one row per line, or quote the fields",
            ) from error
    return records


@contextmanager
def _long_fields() -> Iterator[None]:
    before = csv.field_size_limit(FIELD_LIMIT)
    try:
        yield
    finally:
        csv.field_size_limit(before)


# ---------------------------------------------------------------- columns into rows


def _layout(path: Path, kind: DelimitedFormat, header: Sequence[str], delimiter: str) -> tuple[Layout, bool]:
    named = layout_of(header)
    if named is not None:
        return named, True
    if kind == "ljspeech":
        return COMMA_SEPARATED if delimiter == "," else LJSPEECH, False
    if kind == "gpt_sovits_list":
        return GPT_SOVITS_LIST, False
    wanted = "audio_file|text" if kind == "f5_csv" else "file_name,text"
    raise TableError(
        "header_row",
        f"`{path}` should begin with a header such as `{wanted}`, not with `{printable('|'.join(header))}`",
        hint="name a column of files and a column of texts in the first line",
    )


def _check_columns(path: Path, kind: Format, body: Sequence[Record]) -> None:
    """Refuse `path|text|speaker` tables: their third column is no normalised text."""
    threes = [r.fields for r in body if len(r.fields) == 3 and r.fields[1].strip() and r.fields[2].strip()]
    short = [fields for fields in threes if len(fields[2]) * 4 < len(fields[1])]
    if kind == "ljspeech" and len(threes) >= 4 and len(short) * 2 > len(threes):
        raise TableError(
            "columns",
            f"the third column of `{path}` is no normalised text: it says `{printable(short[0][2])}` where the second "
            f"says `{printable(short[0][1])}`",
            hint="name the columns in a first line, such as `file|text|speaker`",
        )


def _take(collector: Collector, record: Record, path: Path, layout: Layout) -> None:
    fields = record.fields
    texts = [fields[i] for i in layout.texts if i < len(fields)]
    row = _row(record, path, layout, text=next((text for text in texts if text.strip()), ""))
    if len(fields) > max(layout.counts):
        why = f"{len(fields)} columns where at most {max(layout.counts)} are expected: which of them is the text?"
        collector.judge(row, "skip", "column_count", why)
    elif len(fields) == 1:
        collector.judge(row, "skip", "no_text", f"the line has no text, only `{printable(fields[0])}`")
    elif len(fields) < min(layout.counts):
        named = f" ({', '.join(layout.names)})" if layout.names else ""
        why = f"{len(fields)} columns where {min(layout.counts)} are expected{named}"
        collector.judge(row, "skip", "column_count", why)
    elif layout is GPT_SOVITS_LIST:
        written = unquoted(fields[layout.audio])
        beside = partial(folders_beside, path, written=written, speaker=row.speaker)
        collector.locate(row, fields[layout.audio], beside=beside)
    else:
        collector.locate(row, fields[layout.audio])


def _row(record: Record, path: Path, layout: Layout, *, text: str = "") -> Row:
    name = unquoted(_field(record, layout.audio))
    return Row(
        id=_field(record, layout.id).strip() or (name if layout.audio_is_id else stem(name)),
        audio=None,
        text=text,
        speaker=_field(record, layout.speaker).strip(),
        language=language_code(_field(record, layout.language)),
        source=f"{path.name}:{record.number}",
    )


def _field(record: Record, index: int | None) -> str:
    return record.fields[index] if index is not None and index < len(record.fields) else ""
