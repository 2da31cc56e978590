"""Read a run that may be training: its checkpoints may be replaced or removed while they are read."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

from ttstrain.checkpoint import pointers
from ttstrain.checkpoint.meta import META_FILE
from ttstrain.checkpoint.upstream import follow
from ttstrain.errors import CheckpointError, UserError

T = TypeVar("T")

TRIES = 5
PAUSE_S = 0.05  # wait before the second try; doubled before each further one


def retried(path: Path, read: Callable[[], T], *, prefer: Literal["last", "best"] = "last") -> T:
    """Call `read` on `path`; try again where the checkpoint was replaced or removed meanwhile.

    `read` follows the path itself. Raises its error where the checkpoint did not change, and CheckpointError where the
    checkpoint changed during every try.
    """
    pause_s = PAUSE_S
    for number in range(1, TRIES + 1):
        before = _standing_at(path, prefer)
        try:
            return read()
        except (UserError, OSError) as error:  # RecipeError: a file in the checkpoint was removed with it
            if _standing_at(path, prefer) == before:
                raise
            if number == TRIES:
                raise CheckpointError(
                    f"a checkpoint of `{path}` was replaced or removed during each of {TRIES} attempts to read it",
                    hint="a run is saving there: try again, or name a checkpoint that is kept "
                    "(`RUN/checkpoints/step-...`; `checkpoint.keep_last` and `keep_every` say which do)",
                ) from error
        time.sleep(pause_s)
        pause_s *= 2
    raise AssertionError("the last try returns or raises")


def _standing_at(path: Path, prefer: Literal["last", "best"]) -> tuple[Path, int, int] | None:
    """Return a value that differs between two checkpoints of one name; None where no checkpoint of ttstrain is."""
    try:
        folder = follow(path, prefer=prefer)
        if not pointers.is_checkpoint(folder):
            return None
        written = (folder / META_FILE).stat()
    except (CheckpointError, OSError):
        return None
    return folder, written.st_ino, written.st_mtime_ns
