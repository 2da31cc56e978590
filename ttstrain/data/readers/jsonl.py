"""JSON lines: one object per recording, or one list of objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ttstrain import documents
from ttstrain.contract.table import Row, RowTable
from ttstrain.data.forked import MANY, Forked
from ttstrain.data.in_columns import RowColumns
from ttstrain.data.readers.alike import Alike, Keys, alike
from ttstrain.data.readers.collect import Collector, stem
from ttstrain.data.readers.columns import (
    AUDIO,
    DURATION,
    ID,
    LANGUAGE,
    SPEAKER,
    TEXT,
    first_of,
    language_code,
    plain,
    seconds_of,
)
from ttstrain.data.readers.lines import read_text
from ttstrain.data.readers.locate import Locator
from ttstrain.data.readers.rows import TableError, printable
from ttstrain.data.readers.uses import Uses

CHARACTERS_AT_ONCE = 400_000
OWN_SHARE = 0.55  # of many lines: the other process has to send what it has read
MOST_LEARNED = 16  # lines that a pattern is made of; a table is written in one way, or in few


def read_jsonl(path: Path, root: Path, *, files_anywhere: bool = True, text: str | None = None) -> RowTable:
    """Read objects whose keys go by any of the usual names, such as `audio` and `text`; `text`: the file's content."""
    collector = Collector(
        root,
        "jsonl" if files_anywhere else "audiofolder",
        files_anywhere=files_anywhere,
        rows=RowColumns(table=path.name),
    )
    reader = _Reader(path, collector)
    text = read_text(path) if text is None else text
    if text.lstrip().startswith("["):
        reader.read_list(text)
    else:
        reader.read_lines(text)
    collector.columns = reader.uses.columns()
    table = collector.table()
    if not table.rows and not table.findings:
        raise TableError("no_rows", f"`{path}` holds no rows")
    keys = reader.keys
    if keys and not first_of(AUDIO, map(plain, keys)) and not first_of(ID, map(plain, keys)):
        raise TableError(
            "columns",
            f"no key of `{path}` names a file: it has {', '.join(printable(key) for key in sorted(keys)[:12])}",
            hint=f"call it one of {', '.join(AUDIO)}",
        )
    return table


@dataclass(frozen=True, slots=True)
class _Part:
    """Lines of a text, between two places of it: a list of all of them would take as much memory as the text."""

    text: str
    ending: str  # of a line
    start: int = 0
    end: int = -1  # before the last line's ending; -1: that of the text
    first: int = 1  # the number of the first line

    def __post_init__(self) -> None:
        if self.end < 0:
            object.__setattr__(self, "end", len(self.text) - self.text.endswith(self.ending))

    @property
    def num_lines(self) -> int:
        """How many lines these are, but for a last one without any character."""
        return self.text.count(self.ending, self.start, self.end) + (self.start < self.end)

    def cut(self, size: int) -> tuple[_Part, _Part]:
        """Divide after the line that reaches beyond so many characters."""
        at = self.text.find(self.ending, self.start + size, self.end)
        at = self.end if at < 0 else at
        first = replace(self, end=at)
        rest = replace(self, start=min(at + 1, self.end), first=self.first + first.num_lines)
        return first, rest

    def pieces(self) -> Iterator[_Part]:
        """Yield the lines, some at a time."""
        rest = self
        while rest.start < rest.end:
            piece, rest = rest.cut(CHARACTERS_AT_ONCE)
            yield piece

    def lines(self) -> list[str]:
        """Return the lines, without their endings but with a CR before LF."""
        return self.text[self.start : self.end].split(self.ending)

    def rows(self, known: Alike, locator: Locator) -> RowColumns | None:
        """Read the lines by a pattern; None if any of them needs care."""
        lines = self.text[self.start : self.end]
        return known.rows(lines if self.ending == "\n" else lines.replace(self.ending, "\n"), self.first, locator)


def _read_alike(part: _Part, known: Alike, locator: Locator) -> RowColumns | None:
    """Read a part by a pattern; None if any of its lines needs care."""
    found = RowColumns()
    for some in part.pieces():
        if (rows := some.rows(known, locator)) is None:
            return None
        found.extend(rows)
    return found


class _Reader:
    """Reads object by object, and lines that are written like earlier ones many at a time."""

    def __init__(self, path: Path, collector: Collector) -> None:
        self.path = path
        self.collector = collector
        self.keys: set[str] = set()
        self.uses = Uses()
        self._known: Alike | None = None
        self._learned = 0

    def read_list(self, text: str) -> None:
        """Read one list of objects. Raises TableError if it is none."""
        try:
            values = documents.parse(text, numbers="any")
        except documents.DocumentError as error:
            raise TableError("encoding", f"`{self.path}` cannot be read: {error}") from error
        for number, one in enumerate(values, 1):
            read = self._read_line if isinstance(one, str) else self._read
            read(one, self._source(number))

    def read_lines(self, text: str) -> None:
        """Read one object from each line that is not blank; the second half of a large text on another core."""
        first, part = _Part(text, "\n" if "\n" in text else "\r").cut(CHARACTERS_AT_ONCE)
        self._read_part(first)
        second = None
        if self._known is not None and (lines := part.num_lines) >= MANY:
            part, second = part.cut(round(OWN_SHARE * (part.end - part.start)))
            other = Forked(partial(_read_alike, second, self._known, self.collector.locator), items=lines)
        self._read_part(part)
        if second is not None and (rows := other.result()) is not None:
            self.collector.add_columns(rows)
        elif second is not None:
            self._read_part(second)

    def _read_part(self, part: _Part) -> None:
        for some in part.pieces():
            rows = None if self._known is None else some.rows(self._known, self.collector.locator)
            if rows is not None:
                self.collector.add_columns(rows)
                continue
            for number, line in enumerate(some.lines(), some.first):
                if line.strip():
                    self._read_line(line.removesuffix("\r"), self._source(number))

    def _source(self, number: int) -> str:
        return f"{self.path.name}:{number}"

    def _read_line(self, line: str, source: str) -> None:
        alone = None if self._known is None else self._known.row(line, source, self.collector.locator)
        if alone is not None:
            self.collector.rows.append(alone)
            return
        try:
            values = documents.parse(line, numbers="any")
        except documents.DocumentError as error:
            blank = Row(id=source, audio=None, text="", source=source)
            self.collector.add_finding(blank, "skip", "bad_row", f"the line cannot be read: {error}")
            return
        named = self._read(values, source)
        if named is not None and self._learned < MOST_LEARNED and (keys_used := _keys(named, values)) is not None:
            self._known, self._learned = alike(values, keys_used, self.uses) or self._known, self._learned + 1

    def _read(self, values: Any, source: str) -> dict[str, Any] | None:
        """Add an object's row, or why it is none; return its values under normalised names."""
        if not isinstance(values, Mapping):
            blank = Row(id=source, audio=None, text="", source=source)
            self.collector.add_finding(blank, "skip", "bad_row", "the line is not a JSON object")
            return None
        self.keys |= set(values)
        named = {plain(key): value for key, value in values.items()}
        self.uses.see(named, {plain(key): printable(key) for key in values if not self.uses.knows(plain(key))})
        _add_row(self.collector, source, named, self.uses)
        return named


def _add_row(collector: Collector, source: str, values: Mapping[str, Any], uses: Uses) -> None:
    audio_key = first_of(AUDIO, values) or first_of(ID, values)
    name = values[audio_key] if audio_key else ""
    if isinstance(name, Mapping):  # as Hugging Face writes it
        name = name.get("path") or ""
    texts = [key for key in TEXT if values.get(key) is not None]
    text_key = next((key for key in texts if not isinstance(values[key], str) or values[key].strip()), None)
    text = "" if text_key is None else values[text_key]
    for use, key in (("file", audio_key), ("text", text_key), ("speaker", first_of(SPEAKER, values))):
        uses.took(use, key)
    for use, key in (("language", first_of(LANGUAGE, values)), ("id", first_of(ID, values))):
        uses.took(use, key)
    duration_key = first_of(DURATION, values)
    seconds = seconds_of(values[duration_key]) if duration_key else 0.0
    uses.took("duration", duration_key if seconds else None)
    written_id = _word(values, ID)
    name_is_text = isinstance(name, str)
    row = Row(
        id=written_id or (stem(name) if name_is_text else "") or source,
        audio=None,
        text=text if isinstance(text, str) else "",
        speaker=_word(values, SPEAKER),
        language=language_code(_word(values, LANGUAGE)),
        seconds=seconds,
        source=source,
    )
    if not name_is_text or not isinstance(text, str):
        collector.add_finding(row, "skip", "bad_row", "the file and the text should be JSON strings")
    else:
        collector.locate(row, name)


def _keys(values: Mapping[str, Any], written: Mapping[str, Any]) -> Keys | None:
    """Return which keys of a row were read as what; None where that is not the same for all rows with these keys."""
    if len(values) < len(written):
        return None
    spelled = dict(zip(values, written, strict=True))
    text = next((key for key in TEXT if values.get(key) is not None), None)
    duration = first_of(DURATION, values)
    if text is None or not str(values[text]).strip() or (duration and not seconds_of(values[duration])):
        return None
    used = [first_of(AUDIO, values) or first_of(ID, values), text]
    used += [*(first_of(names, values) for names in (ID, SPEAKER, LANGUAGE)), duration]
    return Keys(*(None if key is None else spelled[key] for key in used))


def _word(values: Mapping[str, Any], names: tuple[str, ...]) -> str:
    key = first_of(names, values)
    value = values[key] if key is not None else None
    return str(value).strip() if isinstance(value, str | int) else ""
