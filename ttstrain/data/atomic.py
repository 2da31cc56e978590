"""Files that are whole or not there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Literal


def write_bytes(path: Path, content: bytes, *, durability: Literal["synced", "cached"] = "synced") -> None:
    """Put `content` at `path` in one go, making its folder when needed.

    `cached` leaves it to the system when the bytes reach the disk: for files that are checked when read and can be
    made again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}-", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            if durability == "synced":
                file.flush()
                os.fsync(file.fileno())
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def write_text(path: Path, content: str) -> None:
    """Put `content` at `path` in one go, as UTF-8 with LF line ends."""
    write_bytes(path, content.encode("utf-8"))
