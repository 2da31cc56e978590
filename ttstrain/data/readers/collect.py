"""Gathers the rows of one table, and the findings about those it cannot use."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath

from ttstrain.contract.table import Action, Column, Row, RowFinding, RowTable
from ttstrain.data.in_columns import RowColumns
from ttstrain.data.readers.ids import Place, with_own_ids
from ttstrain.data.readers.locate import Locator, Lost
from ttstrain.data.readers.rows import printable

QUOTES = ('""', "''", "“”", "‘’", "«»", "``")


class Collector:
    """Takes rows in the order of the table."""

    def __init__(
        self, root: Path, kind: str, *, files_anywhere: bool = False, rows: list[Row] | RowColumns | None = None
    ) -> None:
        """`rows` are where rows are held; in columns if none of them has more than these."""
        self.root = root
        self.format = kind
        self.locator = Locator(root, anywhere=files_anywhere)
        self.rows = [] if rows is None else rows
        self._places: dict[int, Place] = {}  # number of a row -> place of its recording, where its path says nothing
        self.findings: list[RowFinding] = []
        self.columns: tuple[Column, ...] = ()

    def locate(self, row: Row, name: str, *, beside: Callable[[], Iterable[Path]] = tuple) -> bool:
        """Add a row whose recording has this name, or a finding if there is none; return whether it was added.

        Quotes round the name are removed unless a file has such a name. `beside` returns more folders to search.
        """
        found = self.locator.find(name, beside=beside)
        if isinstance(found, Lost) and (bare := unquoted(name)) != name.strip():
            found = self.locator.find(bare, beside=beside)
            if not isinstance(found, Lost):
                self.add_finding(
                    row, "fix", "quoted_path", f"`{printable(name.strip())}`: the quotes are no part of the path"
                )
        if isinstance(found, Lost):
            self.add_finding(row, "skip", found.reason, found.why)
            return False
        row = replace(row, audio=found.path)
        self.rows.append(row)
        if found.moved:
            shown = found.path.parent.name
            self.add_finding(
                row, "fix", "moved_file", f"`{printable(name)}` is not there; found by its name in `{shown}`"
            )
        return True

    def add(self, row: Row, place: Place) -> None:
        """Add a row whose recording is known, with the place that can make its id unique."""
        self._places[len(self.rows)] = place
        self.rows.append(row)

    def add_columns(self, rows: RowColumns) -> None:
        """Add rows whose recordings are known by their paths."""
        assert isinstance(self.rows, RowColumns)
        self.rows.extend(rows)

    def leave_out(self, row: Row, name: str, reason: str, why: str) -> None:
        """Skip a row that names a recording, and keep the recording's path, so that it is not reported as orphan."""
        found = self.locator.find(unquoted(name))
        audio = None if isinstance(found, Lost) else found.path
        self.add_finding(replace(row, audio=audio), "skip", reason, why)

    def add_finding(self, row: Row, action: Action, reason: str, why: str) -> None:
        """Add a finding."""
        self.findings.append(RowFinding(row, action, reason, why))

    def table(self) -> RowTable:
        """Return the table; if two recordings have the same id, names of their folders are put before it."""
        rows = with_own_ids(self.rows, self._place)
        return RowTable(
            self.format,
            self.root,
            rows,
            self.findings,
            files_anywhere=self.locator.anywhere,
            columns=self.columns,
        )

    def _place(self, number: int) -> Place:
        """Return the place of a row's recording: the one it was added with, or by its path."""
        path = self.rows[number].audio
        if (known := self._places.get(number)) is not None or path is None:
            return known or Place()
        inside = path.relative_to(self.root) if path.is_relative_to(self.root) else path
        return Place(inside.parent.parts, path.stem)


def stem(name: str) -> str:
    """Return a path's last part without its ending, in any system's spelling."""
    return PurePosixPath(PureWindowsPath(name).name).stem


def unquoted(name: str) -> str:
    """Remove a pair of quotes round a name, such as file managers put round a copied path."""
    name = name.strip()
    return name[1:-1].strip() if len(name) > 2 and name[0] + name[-1] in QUOTES else name
