"""Paths that the operating system refuses: errors with the path, the reason, and what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ttstrain.errors import UserError

_WAYS_OUT = {
    errno.EACCES: "check its owner and permissions (`ls -ld`), or choose another path",
    errno.EPERM: "check its owner and permissions (`ls -ld`), or choose another path",
    errno.EROFS: "the file system is read-only: choose another path",
    errno.ENOSPC: "free some disk space, or choose another path",
    errno.EDQUOT: "your disk quota is used up: free some space, or choose another path",
    errno.ENOTDIR: "a part of this path is a file, not a folder",
    errno.EISDIR: "it is a folder, not a file",
    errno.EEXIST: "the path already exists and is of another kind",
    errno.ENOENT: "a folder in this path is missing, or the file was deleted",
    errno.ELOOP: "its symbolic links form a loop",
    errno.ENAMETOOLONG: "the name is too long for its file system",
    errno.EFBIG: "the file system does not allow a file of this size: choose another path",
    errno.EIO: "the disk reports an input/output error: check the disk before you write to it again",
    errno.ESTALE: "the network drive no longer finds it: mount the drive again",
    errno.ENOTCONN: "the drive is no longer connected: mount it again",
    errno.ETIMEDOUT: "the network drive does not answer: look at its server",
    errno.EXDEV: "its file system cannot rename it, as in a layer of a container's image: choose another path",
    errno.EOPNOTSUPP: "its file system cannot do this: choose another path",
    errno.ENOSYS: "its file system cannot do this: choose another path",
    errno.EMFILE: "raise the number of files a process may open (`ulimit -n`)",
    errno.ENFILE: "too many files are open on this machine",
    errno.ENXIO: "it is a device or a socket that no program serves",
    errno.EBUSY: "another program is using it",
    errno.ETXTBSY: "another program is using it",
}
_LONGEST = 300  # letters of a path that are shown


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with `~` and `~user` replaced; that of a user who is not known stays, and will not be found."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  Path's own raises RuntimeError for an unknown user


def is_refusal(fault: OSError) -> bool:
    """Tell whether the system refused a named path for a reason that the user can fix."""
    return fault.filename is not None and fault.errno in _WAYS_OUT


def refusal(
    fault: OSError, kind: type[UserError], *, path: Path | None = None, hint: str | None = None, what: str = ""
) -> UserError:
    """Return an error with the refused path and the reason; `path` is used if `fault` names none."""
    named = os.fsdecode(fault.filename) if isinstance(fault.filename, str | bytes) else path
    shown = "a file" if named is None else f"`{str(named)[:_LONGEST]}`"
    reason = fault.strerror or str(fault)
    ways = [way for way in (_WAYS_OUT.get(fault.errno or 0), hint) if way]
    return kind(f"{what}{' ' if what else ''}{shown} cannot be used: {reason}", hint="; ".join(ways) or None)


@contextmanager
def refused_as(
    kind: type[UserError], *, path: Path | None = None, hint: str | None = None, what: str = ""
) -> Iterator[None]:
    """Turn an OSError into a `kind` with the refused path, the reason and what to do."""
    try:
        yield
    except OSError as fault:
        raise refusal(fault, kind, path=path, hint=hint, what=what) from fault
