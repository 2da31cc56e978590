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
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Literal

from ttstrain.digest import sha256

PART = ".part"
_OWNER = re.compile(r"-([0-9a-f]{8})-(\d{1,10})-[0-9a-f]{8}")  # machine, process, and what makes two of them differ
DAY_S = 86_400  # nothing is written for so long


def temporary_beside(path: Path, *, end: str = "") -> Path:
    """Return a hidden name beside `path` that no other process takes, and that says whose it is."""
    owner = f"-{_machine()}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f".{path.name[:40]}{owner}{end}")


def remove_leftovers(folder: Path, *, start: str = "", end: str = "") -> None:
    """Remove what processes that live no longer left in `folder`, among names with this start and end.

    Whether a process lives is known of this machine since its start; what others left goes after a day. What cannot be
    removed stays.
    """
    with suppress(OSError):
        for path in list(folder.iterdir()):
            if path.name.startswith(f".{start}") and path.name.endswith(end) and _is_left_over(path):
                with suppress(OSError):
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _is_left_over(path: Path) -> bool:
    """Tell whether a temporary name is that of a process that lives no longer."""
    owner = _OWNER.search(path.name)
    if owner is None:
        return False
    if owner[1] != _machine():
        with suppress(OSError):
            return time.time() - path.lstat().st_mtime > DAY_S
        return False
    try:
        os.kill(int(owner[2]), 0)
    except (ProcessLookupError, OverflowError):  # no process can have such a number
        return True
    except OSError:  # a process of another user
        return False
    return False


@cache
def _machine() -> str:
    """Return a name of where process numbers mean the same: this machine, or this container of it, since its start.

    Two machines may have the same host name, and two containers of different machines the same number.
    """
    told = [socket.gethostname()]
    with suppress(OSError):
        told.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115  a link to no file
    with suppress(OSError):
        told.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
    return sha256(" ".join(told).encode())[:8]


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
