"""Atomic writes: a file appears complete under its name, or not at all.

What is written has a temporary name until then, which tells the process. A killed process leaves such a file or
folder; the next one that writes there removes it.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Literal

from ttstrain.digest import sha256

PART = ".part"
_OWNER = re.compile(r"-([0-9a-f]{8})-(\d+)-[0-9a-f]{8}")  # machine, process, and what makes two of them differ


def temporary_beside(path: Path, *, end: str = "") -> Path:
    """Return a hidden name beside `path` that no other process takes, and that says whose it is."""
    owner = f"-{_machine()}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f".{path.name[:40]}{owner}{end}")


def remove_leftovers(folder: Path, *, start: str = "", end: str = "") -> None:
    """Remove what processes of this machine that live no longer left in `folder`, among names with this start and end.

    What cannot be removed stays.
    """
    with suppress(OSError):
        for path in list(folder.iterdir()):
            if path.name.startswith(f".{start}") and path.name.endswith(end) and _is_left_over(path.name):
                with suppress(OSError):
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _is_left_over(name: str) -> bool:
    """Tell whether a temporary name is that of a process of this machine that lives no longer."""
    owner = _OWNER.search(name)
    if owner is None or owner[1] != _machine():
        return False
    try:
        os.kill(int(owner[2]), 0)
    except ProcessLookupError:
        return True
    except OSError:  # a process of another user
        return False
    return False


@cache
def _machine() -> str:
    """Return a name of where process numbers mean the same: this machine, or this container of it."""
    numbers = ""
    with suppress(OSError):
        numbers = os.readlink("/proc/self/ns/pid")  # noqa: PTH115  a link to no file
    return sha256(f"{socket.gethostname()} {numbers}".encode())[:8]


def write_bytes(path: Path, content: bytes, *, durability: Literal["synced", "cached"] = "synced") -> None:
    """Write a file atomically (temporary name, then rename), creating its folder when needed.

    `cached` skips fsync: for files that are checked when read and can be made again. Raises OSError that names a file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path, end=PART)
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
