"""Writes `report.html`, of one run or of several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ttstrain.checkpoint.lock import is_held
from ttstrain.data import atomic
from ttstrain.report import page
from ttstrain.report.record import Reader, Record, Report, compare
from ttstrain.report.sound import Codec


def write_report(runs: Sequence[Path], file: Path, *, embed: Codec | None = None) -> Report:
    """Read runs and write their page. Raises RecipeError for what is no run, DataError for metrics that are damaged."""
    folder = file.absolute().parent
    records = [Reader(run).read(page=folder, embed=embed, status=status_of(run)) for run in runs]
    return write_page(named_apart(records, runs), file)


def write_page(records: Sequence[Record], file: Path) -> Report:
    """Write the page of runs that were read."""
    report = compare(records)
    atomic.write_bytes(file, page.encoded(page.render(report.to_json())), durability="cached")
    return report


def status_of(run: Path) -> str:
    """Return `running` while a process writes into the run's folder; else nothing is known."""
    return "running" if is_held(run) else ""


def named_apart(records: Sequence[Record], runs: Sequence[Path]) -> list[Record]:
    """Give runs of the same name the names of their folders, or their paths."""
    found = list(records)
    for names in ([run.name for run in runs], [str(run) for run in runs]):
        if len({record.name for record in found}) == len(found):
            break
        found = [replace(record, name=name) for record, name in zip(found, names, strict=True)]
    return found
