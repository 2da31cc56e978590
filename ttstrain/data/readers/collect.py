"""Gathers the rows of one table, and the findings about those it cannot use."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath

from ttstrain.data.readers.locate import Locator, Lost
from ttstrain.data.readers.rows import Action, Format, Row, RowTable, Verdict, printable

QUOTES = ('""', "''", "“”", "‘’", "«»", "``")


class Collector:
    """Takes rows in the order of the table."""

    def __init__(self, root: Path, kind: Format, *, files_anywhere: bool = False) -> None:
        self.root = root
        self.format = kind
        self.locator = Locator(root, anywhere=files_anywhere)
        self.rows: list[Row] = []
        self.verdicts: list[Verdict] = []

    def locate(self, row: Row, name: str, *, beside: Callable[[], Iterable[Path]] = tuple) -> None:
        """Add a row whose recording goes by `name`, or the reason why there is none.

        Quotes round the name are no part of it unless a file is called so. `beside` tells the folders where it may lie.
        """
        found = self.locator.find(name, beside=beside)
        if isinstance(found, Lost) and (bare := unquoted(name)) != name.strip():
            found = self.locator.find(bare, beside=beside)
            if not isinstance(found, Lost):
                self.judge(
                    row, "fix", "quoted_path", f"`{printable(name.strip())}`: the quotes are no part of the path"
                )
        if isinstance(found, Lost):
            self.judge(row, "skip", found.reason, found.why)
            return
        row = replace(row, audio=found.path)
        self.rows.append(row)
        if found.moved:
            shown = found.path.parent.name
            self.judge(row, "fix", "moved_file", f"`{printable(name)}` is not there; found by its name in `{shown}`")

    def judge(self, row: Row, action: Action, reason: str, why: str) -> None:
        """Add a finding."""
        self.verdicts.append(Verdict(row, action, reason, why))

    def table(self) -> RowTable:
        """Return what was gathered; rows named after equal file names get their folder's name in front."""
        files: dict[str, set[Path | None]] = defaultdict(set)
        for row in self.rows:
            files[row.id].add(row.audio)
        rows = [
            replace(row, id=f"{row.audio.parent.name}/{row.id}")
            if self.format != "ljspeech" and row.audio is not None and len(files[row.id]) > 1
            else row
            for row in self.rows
        ]
        return RowTable(self.format, self.root, rows, self.verdicts, files_anywhere=self.locator.anywhere)


def stem(name: str) -> str:
    """Return a path's last part without its ending, in any system's spelling."""
    return PurePosixPath(PureWindowsPath(name).name).stem


def unquoted(name: str) -> str:
    """Take off a pair of quotes round a name, as systems put them round a path that is copied."""
    name = name.strip()
    return name[1:-1].strip() if len(name) > 2 and name[0] + name[-1] in QUOTES else name
