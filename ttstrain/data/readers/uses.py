"""Record which column of a table was used as what, with an example value of each, so that a mistake is visible."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ttstrain.contract.table import Column
from ttstrain.data.readers.columns import plain

ORDER = ("file", "text", "speaker", "language", "id", "duration")


class Uses:
    """Collects, row by row, an example value of each named column and what the column was used as."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}  # normalised name -> name as written
        self._uses: dict[str, str] = {}
        self._examples: dict[str, str] = {}

    def knows(self, name: str) -> bool:
        """Tell whether a column was seen before."""
        return name in self._names

    def has_example(self, name: str) -> bool:
        """Tell whether a column had a value that can be shown; `name` as it is written."""
        return plain(name) in self._examples

    def see(self, values: Mapping[str, Any], written: Mapping[str, str]) -> None:
        """Record a row's columns and example values; `written` maps a normalised name to its spelling."""
        for name, value in values.items():
            if name not in self._names:
                self._names[name] = written.get(name, name)
            if name not in self._examples and (shown := _shown(value)):
                self._examples[name] = shown

    def took(self, use: str, name: str | None) -> None:
        """Record that a column was used as `use`; None if this row has no such column."""
        if name is not None:
            self._uses.setdefault(name, use)

    def columns(self) -> tuple[Column, ...]:
        """Return the columns that were used, in a fixed order, then the others."""
        every = [
            Column(self._uses.get(name, ""), f"`{written}`", self._examples.get(name, ""))
            for name, written in self._names.items()
        ]
        used = [column for column in every if column.use]
        return (*sorted(used, key=lambda c: ORDER.index(c.use)), *(column for column in every if not column.use))


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        value = value.get("path")
    return str(value).strip() if isinstance(value, str | int | float) else ""
