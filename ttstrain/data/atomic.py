"""Atomic writes: a file appears complete under its name, or not at all."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Literal


def write_bytes(path: Path, content: bytes, *, durability: Literal["synced", "cached"] = "synced") -> None:
    """Write a file atomically (temporary name, then rename), creating its folder when needed.

    `cached` skips fsync: for files that are checked when read and can be made again. Raises OSError that names a file.
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
    except OSError as error:
        if error.errno is not None and error.filename is None:  # of a full disk the system names no file
            error.filename = str(path)
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, content: str) -> None:
    """Write a text file atomically, as UTF-8 with LF line ends."""
    write_bytes(path, content.encode("utf-8"))
