"""Which columns of a table were read as what, with an example of each: what was taken for the text can then be seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ttstrain.contract.table import Column

ORDER = ("file", "text", "speaker", "language", "id")


class Uses:
    """Gathers, row by row, what each named column holds and what it was read as."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}  # as it is compared -> as it is written
        self._uses: dict[str, str] = {}
        self._examples: dict[str, str] = {}

    def see(self, values: Mapping[str, Any], written: Mapping[str, str]) -> None:
        """Look at a row's values; `written` says how each column spells its name."""
        for name, value in values.items():
            if name not in self._names:
                self._names[name] = written.get(name, name)
            if name not in self._examples and (shown := _shown(value)):
                self._examples[name] = shown

    def took(self, use: str, name: str | None) -> None:
        """Note that a column was read as something; a row without that column changes nothing."""
        if name is not None:
            self._uses.setdefault(name, use)

    def columns(self) -> tuple[Column, ...]:
        """Return what was used, in a fixed order, then what was not."""
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
