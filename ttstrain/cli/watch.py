"""`ttstrain watch`: a run's page while it trains, with buttons that steer it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ttstrain.cli import paths


def watch(
    run: Annotated[Path, typer.Argument(parser=paths.path, metavar="RUN", help="The folder of a run.")],
    *,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on; 0 takes any free one.")] = 0,
) -> None:
    """Show RUN as a live page in a browser on this machine, until Ctrl-C.

    The page is that of `ttstrain report`; it has buttons that ask the run for samples, for a checkpoint, or to stop.
    They write the files SAMPLE, SAVE and STOP into the run's folder, which work without the page too. The address
    holds a secret: whoever has it and may reach this machine can steer the run.
    """
    from ttstrain.report.live import Server

    with Server(run, port=port) as server:
        print(server.address, flush=True)
        there = f"ssh -L {server.server_port}:127.0.0.1:{server.server_port} HOST"
        print(f"open it in a browser on this machine; from another one, first `{there}`", file=sys.stderr)
        print("Ctrl-C ends it; the run goes on", file=sys.stderr)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return
