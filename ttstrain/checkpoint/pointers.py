"""A run's checkpoints: complete folders, the pointers `last` and `best`, and leftovers of a process that was killed.

A pointer is a text file with the name of a folder beside it. A pointer or link to any other place is not followed.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import suppress
from pathlib import Path

from ttstrain.checkpoint.lock import hold
from ttstrain.checkpoint.meta import META_FILE, read_meta
from ttstrain.data import atomic
from ttstrain.errors import CheckpointError, UserError

CHECKPOINTS = "checkpoints"
LAST, BEST = "last", "best"
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)  # errors of a drive that flushes files only
_STEP_FOLDER = re.compile(r"step-(\d{8,})")


def is_checkpoint(folder: Path) -> bool:
    """Tell whether a folder is a checkpoint of ttstrain."""
    return (folder / META_FILE).is_file()


def is_own(folder: Path) -> bool:
    """Tell whether a folder is a checkpoint and no link to one."""
    return is_checkpoint(folder) and not folder.is_symlink()


def list_checkpoints(root: Path) -> list[Path]:
    """List the complete checkpoints in a `checkpoints` folder by step; links are left out."""
    if not root.is_dir():
        return []
    found = [folder for folder in root.iterdir() if _STEP_FOLDER.fullmatch(folder.name) and is_own(folder)]
    return sorted(found, key=step_of)


def by_age(root: Path) -> list[Path]:
    """List the complete checkpoints by the order in which they were written."""
    return sorted(list_checkpoints(root), key=lambda folder: (order(folder), _written_at(folder)))


def newest_written_at(root: Path) -> int:
    """Return when the newest complete checkpoint was written, in nanoseconds; 0 where there is none."""
    return max((_written_at(folder) for folder in list_checkpoints(root)), default=0)


def _written_at(folder: Path) -> int:
    try:
        return (folder / META_FILE).stat().st_mtime_ns
    except OSError:
        return 0


def order(folder: Path) -> int:
    """Return which of its run's checkpoints this is, in the order of writing."""
    try:
        return read_meta(folder).order
    except CheckpointError:  # a damaged checkpoint, which `inspect-ckpt` reports, counts as the oldest
        return -1


def step_of(folder: Path) -> int:
    """Return the step in a checkpoint's name."""
    match = _STEP_FOLDER.fullmatch(folder.name)
    assert match is not None
    return int(match[1])


# ---------------------------------------------------------------- last and best


def read_pointer(root: Path, name: str) -> Path | None:
    """Follow `last` or `best` to a checkpoint in this folder; where `last` is missing or damaged, the newest one.

    Raises CheckpointError when the pointer names a missing checkpoint, or `best` names none.
    """
    path, named = root / name, pointed(root, name)
    if named is None and name == LAST:
        return next(reversed(by_age(root)), None)
    if named is None and not path.exists():
        return None
    if named is None or not is_own(root / named):
        what = "does not name a checkpoint of this run" if named is None else f"names `{named}`, which does not exist"
        present = ", ".join(found.name for found in list_checkpoints(root)) or "none"
        raise CheckpointError(f"`{path}` {what}", hint=f"complete ones: {present}")
    return root / named


def pointed(root: Path, name: str) -> str | None:
    """Return the checkpoint's name that a pointer holds; None where it is missing or holds anything else."""
    try:
        with (root / name).open("rb") as file:
            text = file.read(100).decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return text if _STEP_FOLDER.fullmatch(text) else None


def write_pointer(path: Path, name: str) -> None:
    """Let `last` or `best` name a checkpoint beside it."""
    try:
        atomic.write_text(path, name + "\n")
        sync_folder(path.parent)
    except OSError as error:
        raise CheckpointError(f"`{path}` could not be written: {error.strerror or error}") from error


# ---------------------------------------------------------------- what a dead process left


def recover(root: Path) -> None:
    """Restore a checkpoint that was being replaced when the process died. For the run's writer only."""
    for aside, folder in stepped_aside(root).items():
        with suppress(FileNotFoundError):  # another process of the run has done it already
            aside.rename(folder)


def mend(path: Path) -> None:
    """Call `recover` for the run at `path` before it is read, unless a process holds the run's lock."""
    for root in (path / CHECKPOINTS, path, path.parent):
        if root.name == CHECKPOINTS and stepped_aside(root):
            with suppress(UserError, OSError), hold(root.parent):
                recover(root)


def stepped_aside(root: Path) -> dict[Path, Path]:
    """Return each renamed old checkpoint whose new one is not in place, and its original path."""
    pairs = [(aside, root / aside.name[1 : -len(".old")]) for aside in root.glob(".step-*.old")]
    return {aside: folder for aside, folder in pairs if is_checkpoint(aside) and not folder.exists()}


def mend_last(root: Path) -> str | None:
    """Rewrite a missing or damaged `last` to name the newest checkpoint; return a note that says so."""
    newest = next(reversed(by_age(root)), None)
    if newest is None or pointed(root, LAST) is not None:
        return None
    write_pointer(root / LAST, newest.name)
    return f"WARNING: `{root / LAST}` was missing or damaged: it now names the newest checkpoint, {newest.name}"


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to the disk, on file systems that can: some network drives cannot."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)
