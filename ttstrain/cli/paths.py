"""Paths on the command line. An empty one, as `--data "$UNSET"` gives, never stands for the current folder."""

from __future__ import annotations

from pathlib import Path

import typer


def path(written: str) -> Path:
    """Return an argument as a path. Raises BadParameter (exit code 2) when it is empty."""
    return Path(name(written))


def name(written: str) -> str:
    """Return a path, address or name unchanged. Raises BadParameter (exit code 2) when it is empty."""
    if not written.strip():
        raise typer.BadParameter("it is empty, perhaps from an unset shell variable; the current folder is `.`")
    return written
