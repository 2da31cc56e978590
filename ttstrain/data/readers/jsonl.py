"""JSON lines: one object per recording, or one list of objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ttstrain import documents
from ttstrain.contract.table import Row, RowTable
from ttstrain.data.readers.alike import Keys, alike
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
from ttstrain.data.readers.lines import read_text, split_lines
from ttstrain.data.readers.rows import TableError, printable
from ttstrain.data.readers.uses import Uses

MOST_LEARNED = 16  # lines that a pattern is made of; a table is written in one way, or in few


def read_jsonl(path: Path, root: Path, *, files_anywhere: bool = True) -> RowTable:
    """Read objects whose keys go by any of the usual names, such as `audio` and `text`."""
    collector = Collector(root, "jsonl" if files_anywhere else "audiofolder", files_anywhere=files_anywhere)
    keys: set[str] = set()
    uses = Uses()
    known, learned, named_as = None, 0, path.name
    for number, text in _objects(path):
        source = f"{named_as}:{number}"
        alone = known.row(text, source, collector.locator) if known is not None and isinstance(text, str) else None
        if alone is not None:
            collector.rows.append(alone)
            continue
        blank = Row(id=source, audio=None, text="", source=source)
        try:
            values = documents.parse(text, numbers="any") if isinstance(text, str) else text
        except documents.DocumentError as error:
            collector.add_finding(blank, "skip", "bad_row", f"the line cannot be read: {error}")
            continue
        if not isinstance(values, Mapping):
            collector.add_finding(blank, "skip", "bad_row", "the line is not a JSON object")
            continue
        keys |= set(values)
        named = {plain(key): value for key, value in values.items()}
        uses.see(named, {plain(key): printable(key) for key in values if not uses.knows(plain(key))})
        _add_row(collector, source, named, uses)
        if isinstance(text, str) and learned < MOST_LEARNED and (keys_used := _keys(named, values)) is not None:
            known, learned = alike(values, keys_used, uses) or known, learned + 1
    collector.columns = uses.columns()
    table = collector.table()
    if not table.rows and not table.findings:
        raise TableError("no_rows", f"`{path}` holds no rows")
    if keys and not first_of(AUDIO, map(plain, keys)) and not first_of(ID, map(plain, keys)):
        raise TableError(
            "columns",
            f"no key of `{path}` names a file: it has {', '.join(printable(key) for key in sorted(keys)[:12])}",
            hint=f"call it one of {', '.join(AUDIO)}",
        )
    return table


def _objects(path: Path) -> Sequence[tuple[int, Any]]:
    text = read_text(path)
    if not text.lstrip().startswith("["):
        return split_lines(text)
    try:
        return list(enumerate(documents.parse(text, numbers="any"), 1))
    except documents.DocumentError as error:
        raise TableError("encoding", f"`{path}` cannot be read: {error}") from error


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
