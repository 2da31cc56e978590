"""Files that are whole or not there."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Literal


def write_bytes(path: Path, content: bytes, *, durability: Literal["synced", "cached"] = "synced") -> None:
    """Put `content` at `path` in one go, making its folder when needed.

    `cached` leaves it to the system when the bytes reach the disk: for files that are checked when read and can be
    made again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:40]}-{secrets.token_hex(8)}.part")
    try:
        with temporary.open("xb") as file:  # with the permissions of any new file, which `tempfile` would not give
            file.write(content)
            if durability == "synced":
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, content: str) -> None:
    """Put `content` at `path` in one go, as UTF-8 with LF line ends."""
    write_bytes(path, content.encode("utf-8"))
