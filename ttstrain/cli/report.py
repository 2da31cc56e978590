"""`ttstrain report`: a run as one page to look at and listen to, or several side by side."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ttstrain.cli import paths
from ttstrain.errors import DataError
from ttstrain.places import refused_as
from ttstrain.terminal import on_one_line


class Codec(str, Enum):
    """How sound is put into the page."""

    flac = "flac"
    ogg = "ogg"


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(parser=paths.path, metavar="RUN...", help="Folders of runs; two or more are compared."),
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", parser=paths.path, metavar="FILE", help="Default: report.html in the run; here for several."
        ),
    ] = None,
    embed_audio: Annotated[
        bool, typer.Option("--embed-audio", help="Put the sound into the page, so that it can be sent as one file.")
    ] = False,
    codec: Annotated[Codec, typer.Option(help="For --embed-audio: flac loses nothing, ogg is smaller.")] = Codec.flac,
) -> None:
    """Write a page about RUN: verdict, losses, learning rates, samples to hear, recipe, data.

    The page needs no network. Sounds are played from the run's folder unless `--embed-audio` puts them into the page.
    A run writes its own `report.html` while it trains.
    """
    from ttstrain.checkpoint.run_folder import REPORT
    from ttstrain.report.write import write_report

    file = (runs[0] if len(runs) == 1 else Path()) / REPORT if out is None else out
    with refused_as(DataError, path=file, hint="name another place with `-o`"):
        found = write_report(runs, file, embed=codec.value if embed_audio else None)
    for run in found.runs:
        for note in (*run.notes, *run.grid.notes, *run.data.notes):
            print(on_one_line(f"note: {run.name}: {note}"), file=sys.stderr)
    print(on_one_line(str(file)))
