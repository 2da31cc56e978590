"""Tables with one recording per line: LJSpeech, csv or tsv with a header, and the lists of families' upstreams.

Comma-separated tables are read by the rules of csv, and so are others if the whole file shows that a csv writer made
them; otherwise every character but the separator is text. A row with an unexpected number of columns is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from ttstrain import registry
from ttstrain.contract.table import Column, Layout, LineFormat, Row, RowTable
from ttstrain.data.readers.bars import with_plain_bars
from ttstrain.data.readers.collect import Collector, stem, unquoted
from ttstrain.data.readers.columns import (
    COMMA_SEPARATED,
    LJSPEECH,
    language_code,
    layout_of,
    plain,
    seconds_of,
)
from ttstrain.data.readers.lines import Line, read_text, split_lines
from ttstrain.data.readers.locate import leaves_folder
from ttstrain.data.readers.quoting import Record, cut
from ttstrain.data.readers.rows import TableError, printable
from ttstrain.data.readers.third_column import Third, check_third

Delimiter = Literal["|", "\t", ","]
MOST_GAIN_DB = 60
COMMON = ("ljspeech", "audiofolder")  # formats that belong to no family


def read_delimited(path: Path, root: Path, wanted: str | None) -> RowTable:
    """Read a table; `wanted=None` detects the format from the content."""
    text = read_text(path)
    comments, lines = _without_comments(split_lines(text))
    lines, changed = with_plain_bars(lines, columns=_num_columns(path, wanted))
    if not lines:
        raise TableError("no_rows", f"`{path}` holds no rows", hint="each line should be `id|text`")
    delimiter = find_delimiter(path, [line.text for line in lines])
    records = cut(path, _joined(lines) if changed else text, lines, delimiter)
    header = records[0].fields
    kind = wanted or recognise(path, records)
    known = next((known for known in registry.line_formats() if known.name == kind), None)
    layout, has_header = _layout(path, known, kind, header, delimiter)
    body = records[1:] if has_header else records
    if not body:
        raise TableError("no_rows", f"`{path}` holds a header and no rows")
    body = [_without_blank_end(record, layout) for record in body]
    third = check_third(path, body) if layout is LJSPEECH else Third()
    reading = _Reading(path, layout, third, None if has_header else known)
    collector = Collector(root, kind, files_anywhere=known is not None)
    for line in comments:
        comment = Record(line.number, [line.text])
        collector.add_finding(_row(comment, path, layout), "accept", "comment", "a comment, not a row")
    if has_header and kind == "ljspeech":
        why = f"the header `{printable(delimiter.join(header))}` is no row"
        collector.add_finding(_row(records[0], path, layout), "fix", "header_row", why)
    if delimiter != "|" and not has_header:
        named = "tabs" if delimiter == "\t" else "commas, with csv quoting"
        collector.add_finding(
            _row(body[0], path, layout), "accept", "delimiter", f"the columns are separated by {named}"
        )
    for record in body:
        _add_row(collector, record, reading)
        if record.number in changed:
            why = "its columns are separated by bars that only look like `|`, such as the full-width `｜`: read as `|`"
            collector.add_finding(_row(record, path, layout), "fix", "bars", why)
    usual = [record for record in body if not _odd_count(record, layout, third)]
    collector.columns = _columns(layout, header if has_header else (), usual)
    return collector.table()


def recognise(path: Path, records: Sequence[Record]) -> str:
    """Detect the format from the header, or by asking the families."""
    named = layout_of(records[0].fields)
    if named is not None and plain(records[0].fields[named.audio]) == "file_name":
        return "audiofolder"
    lines = [record.fields for record in records[:100]]
    return next((known.name for known in registry.line_formats() if known.sniff(path, lines)), "ljspeech")


def _num_columns(path: Path, wanted: str | None) -> int | None:
    """Return the number of columns of a format that is given by name or by the file's ending; else None."""
    for known in registry.line_formats():
        if known.layout is not None and (known.name == wanted or path.suffix == known.ending):
            return max(known.layout.counts)
    return None


def find_delimiter(path: Path, lines: Sequence[str]) -> Delimiter:
    """Return the first of `|`, tab and comma that half of the lines contain.

    If some lines lack it and another candidate comes before it in every line, that one is the separator: the first
    belongs to the texts.
    """
    sample = lines[:200]
    candidates: tuple[Delimiter, ...] = ("|", "\t", ",")
    for i, delimiter in enumerate(candidates):
        count = sum(delimiter in line for line in sample)
        if count * 2 < len(sample):
            continue
        before = (
            other for other in candidates[i + 1 :] if all(_comes_first(other, delimiter, line) for line in sample)
        )
        return delimiter if count == len(sample) else next(before, delimiter)
    raise TableError(
        "delimiter",
        f"`{path}` has no column separator: its first line is `{printable(lines[0])}`",
        hint="each line should be `id|text` or `id|text|normalised text`",
    )


def _comes_first(one: str, other: str, line: str) -> bool:
    """Tell whether a line contains `one` without `other` before it."""
    return one in line and other not in line[: line.index(one)]


def _joined(lines: Sequence[Line]) -> str:
    """Join lines into a text in which each keeps its line number."""
    written = [""] * lines[-1].number
    for line in lines:
        written[line.number - 1] = line.text
    return "\n".join(written)


def _without_comments(lines: Sequence[Line]) -> tuple[list[Line], list[Line]]:
    comments = [line for line in lines if line.text.lstrip().startswith("#") and "|" not in line.text]
    numbers = {line.number for line in comments}
    return comments, [line for line in lines if line.number not in numbers]


# ---------------------------------------------------------------- columns into rows


def _layout(
    path: Path, known: LineFormat | None, kind: str, header: Sequence[str], delimiter: str
) -> tuple[Layout, bool]:
    named = layout_of(header)
    if named is not None:
        return named, True
    if kind == "ljspeech":
        return COMMA_SEPARATED if delimiter == "," else LJSPEECH, False
    if known is not None and known.layout is not None:
        return known.layout, False
    wanted = "file_name,text" if known is None else known.header
    raise TableError(
        "header_row",
        f"`{path}` should begin with a header such as `{wanted}`, not with `{printable('|'.join(header))}`",
        hint="name a column of files and a column of texts in the first line",
    )


def _without_blank_end(record: Record, layout: Layout) -> Record:
    """Drop surplus blank columns, which come from a separator at the end of the line."""
    fields = record.fields
    while len(fields) > max(layout.counts) and not fields[-1].strip():
        fields = fields[:-1]
    return replace(record, fields=fields)


@dataclass(frozen=True, slots=True)
class _Reading:
    """How the rows of one table are read."""

    path: Path
    layout: Layout
    third: Third
    known: LineFormat | None  # a family's table without a header


def _add_row(collector: Collector, record: Record, reading: _Reading) -> None:
    path, layout, third, fields = reading.path, reading.layout, reading.third, record.fields
    texts = [fields[i] for i in layout.texts if i < len(fields)]
    row = _row(record, path, layout, text=next((text for text in texts if text.strip()), ""))
    name = fields[layout.audio] if layout.audio < len(fields) else ""
    if row.id and leaves_folder(row.id) and collector.locator.inside(row.id) is not None:
        row = replace(row, id=stem(row.id))  # an absolute path of something in the folder
    if len(fields) == 1:
        collector.add_finding(row, "skip", "no_text", f"the line has no text, only `{printable(fields[0])}`")
    elif fault := _odd_count(record, layout, third):
        collector.leave_out(row, name, "column_count", fault)
    elif fault := _odd_gain(_field(record, layout.gain)):
        collector.leave_out(row, name, "gain", fault)
    elif collector.locate(row, name, beside=_beside(path, reading.known, name, row.speaker)):
        if record.unquoted:
            collector.add_finding(row, "fix", "csv_quotes", f"csv quoting undone: `{printable(row.text, limit=40)}`")
        if record.number in third.doubtful:
            shown = printable(fields[2], limit=30)
            why = f"the third column, `{shown}`, shares few words with the second: check which one is spoken"
            collector.add_finding(row, "accept", "columns", why)


def _beside(path: Path, known: LineFormat | None, name: str, speaker: str) -> Callable[[], Iterable[Path]]:
    return tuple if known is None else partial(known.folders_beside, path, written=unquoted(name), speaker=speaker)


def _odd_count(record: Record, layout: Layout, third: Third) -> str:
    num, most, least = len(record.fields), max(layout.counts), min(layout.counts)
    if num > most:
        return f"{num} columns where at most {most} are expected: unclear which one is the text"
    if record.number in third.odd:
        return "3 columns where most rows have 2: the text may contain the separator"
    if num < least:
        named = f" ({', '.join(layout.names)})" if layout.names else ""
        return f"{num} columns where {least} are expected{named}"
    return ""


def _row(record: Record, path: Path, layout: Layout, *, text: str = "") -> Row:
    name = unquoted(_field(record, layout.audio))
    gain = _field(record, layout.gain).strip()
    return Row(
        id=_field(record, layout.id).strip() or (name if layout.audio_is_id else stem(name)),
        audio=None,
        text=text,
        speaker=_field(record, layout.speaker).strip(),
        language=language_code(_field(record, layout.language)),
        gain_db=0.0 if _odd_gain(gain) else float(gain or 0.0),
        seconds=seconds_of(_field(record, layout.seconds)),
        source=f"{path.name}:{record.number}",
    )


def _odd_gain(written: str) -> str:
    """Say what is wrong with a gain; nothing is wrong with an empty one."""
    try:
        within = abs(float(written.strip() or 0)) <= MOST_GAIN_DB
    except ValueError:
        within = False
    return "" if within else f"`{printable(written, limit=30)}` is no gain of -{MOST_GAIN_DB} to {MOST_GAIN_DB} dB"


def _field(record: Record, index: int | None) -> str:
    return record.fields[index] if index is not None and index < len(record.fields) else ""


def _columns(layout: Layout, header: Sequence[str], body: Sequence[Record]) -> tuple[Column, ...]:
    """Return what each column was used as, with its first value."""
    uses = {layout.id: "id", layout.speaker: "speaker", layout.language: "language", layout.gain: "gain"}
    uses |= {layout.seconds: "duration", layout.audio: "file"}
    count = max(len(header), *(len(record.fields) for record in body), 0)
    columns = []
    for i in range(count if body else 0):
        values = (_field(record, i).strip() for record in body)
        example = next((value for value in values if value), "")
        use = "text" if i in layout.texts else uses.get(i, "")
        if example or header:
            columns.append(Column(use, f"`{header[i].strip()}`" if i < len(header) else f"column {i + 1}", example))
    if layout is LJSPEECH and len(columns) > LJSPEECH.texts[0]:
        columns[1], columns[2] = columns[2], columns[1]  # the normalised text is preferred
    return tuple(columns)
