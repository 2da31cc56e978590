"""Lines of JSON that are written alike: read by a pattern that is made of one line after it was read with care.

The pattern takes only what the careful way would take unchanged: texts without escapes and plain numbers, under the
same keys in the same order. Every other line is left to that way.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ttstrain.contract.table import Row
from ttstrain.data.in_columns import RowColumns
from ttstrain.data.readers.columns import LONGEST_S, language_code, seconds_of
from ttstrain.data.readers.locate import Locator
from ttstrain.data.readers.uses import Uses

_TEXT = r'"([^"\\\x00-\x1f]*)"'
_WHOLE = r"(0|[1-9][0-9]{0,14})"
_NUMBER = r"(-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,20})?)"


@dataclass(frozen=True, slots=True)
class Keys:
    """Which keys of a line, as it is written, were read as what; None: no key."""

    audio: str | None
    text: str | None
    id: str | None
    speaker: str | None
    language: str | None
    seconds: str | None


@dataclass(frozen=True, slots=True)
class Alike:
    """A pattern of lines whose keys, kinds of values and uses are equal."""

    pattern: re.Pattern[str]
    lines: re.Pattern[str]  # the same, for a text of many lines
    groups: tuple[int, ...]  # of audio, text, id, speaker, language, seconds; 0: there is no such key
    languages: dict[str, str] = field(default_factory=dict)  # as written -> code

    def row(self, line: str, source: str, locator: Locator) -> Row | None:
        """Read a line; None leaves it to the careful way."""
        match = self.pattern.fullmatch(line)
        if match is None:
            return None
        name, text, written_id, speaker, language, written = match.group(*self.groups)
        seconds = seconds_of(written) if self.groups[-1] else 0.0
        if not text.strip() or (self.groups[-1] and not seconds):
            return None
        path = locator.as_written(name)
        id_ = written_id.strip() if self.groups[2] else _stem(name)
        if path is None or not id_:
            return None
        code = self.languages.get(language) if self.groups[4] else ""
        if code is None:
            code = self.languages.setdefault(language, language_code(language))
        return Row(
            id=id_,
            audio=path,
            text=text,
            speaker=speaker.strip() if self.groups[3] else "",
            language=code,
            seconds=seconds,
            source=source,
        )

    def rows(self, lines: str, first: int, locator: Locator) -> RowColumns | None:
        """Read many lines as `row` reads each, None if it leaves any to the careful way; `first` is a line's number."""
        found = self.lines.findall(lines)
        if len(found) != lines.count("\n") + 1:
            return None
        columns = list(zip(*found, strict=True))
        names, texts, written_ids, speakers, languages, written = (
            columns[group - 1] if group else [""] * len(found) for group in self.groups
        )
        ids = list(map(str.strip, written_ids)) if self.groups[2] else [_stem(name) for name in names]
        paths, seconds = locator.all_as_written(names), self._seconds(written)
        if paths is None or seconds is None or not all(map(str.strip, texts)) or not all(ids):
            return None
        return RowColumns(
            ids=ids,
            audio=paths,
            texts=list(texts),
            speakers=_each(str.strip, speakers),
            languages=_each(language_code, languages),
            seconds=seconds,
            lines=array("q", range(first, first + len(found))),
        )

    def _seconds(self, written: Sequence[str]) -> array[float] | None:
        """Read the durations; None if one is no duration."""
        if not self.groups[-1]:
            return array("d", [0.0]) * len(written)
        try:
            seconds = array("d", map(float, written))
        except (ValueError, OverflowError):
            return None
        return seconds if min(seconds) > 0 and max(seconds) <= LONGEST_S else None


def _stem(name: str) -> str:
    return name.rpartition("/")[2].rpartition(".")[0]


def _each(change: Callable[[str], str], values: Sequence[str]) -> list[str]:
    """Change every value; equal ones, of which there are few, once."""
    changed = {value: change(value) for value in set(values)}
    return list(map(changed.__getitem__, values))


def alike(values: Mapping[str, Any], keys: Keys, uses: Uses) -> Alike | None:
    """Make the pattern of lines like the one that holds `values`; None where such lines need care.

    Values of a column that has no example yet have to be equal, so that its first example is found.
    """
    if not isinstance(values.get(keys.audio or ""), str) or not isinstance(values.get(keys.text or ""), str):
        return None
    used = (keys.audio, keys.text, keys.id, keys.speaker, keys.language, keys.seconds)
    members, group_of = [], {}
    for number, (key, value) in enumerate(values.items(), 1):
        written = _pattern(value, key, keys) if uses.has_example(key) else f"({re.escape(_json(value))})"
        if written is None:
            return None
        members.append(f"{re.escape(_json(key))}: ?{written}")
        group_of[key] = number
    pattern = r"\{" + ", ?".join(members) + r"\}"
    lines = re.compile(rf"^{pattern}\r?$", re.MULTILINE)
    return Alike(re.compile(pattern), lines, tuple(0 if key is None else group_of[key] for key in used))


def _pattern(value: Any, key: str, keys: Keys) -> str | None:
    if isinstance(value, str):
        return _TEXT
    if isinstance(value, bool) or value is None:
        return f"({_json(value)})"
    if key in (keys.id, keys.speaker, keys.language):
        return _WHOLE if isinstance(value, int) else None
    return _NUMBER if isinstance(value, int | float) else None


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
