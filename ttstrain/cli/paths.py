"""Paths on the command line. An empty one, as `--data "$UNSET"` gives, never stands for the current folder."""

from __future__ import annotations

from pathlib import Path

import typer

from ttstrain.recipe.shipped import base_path


def path(written: str) -> Path:
    """Return an argument as a path. Raises BadParameter (exit code 2) when it is empty."""
    return Path(name(written))


def checkpoint(written: str) -> Path:
    """Return a checkpoint's path; that of a base that ships with ttstrain, `package:NAME`, is its folder.

    Raises BadParameter when it is empty, CheckpointError (exit code 4) when no such base ships.
    """
    return base_path(name(written))


def name(written: str) -> str:
    """Return a path, address or name unchanged. Raises BadParameter (exit code 2) when it is empty."""
    if not written.strip():
        raise typer.BadParameter("it is empty, perhaps from an unset shell variable; the current folder is `.`")
    return written
