"""Places that a person named and the system refuses: which path, why, and what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ttstrain.errors import UserError

_WAYS_OUT = {
    errno.EACCES: "look whose it is and what is allowed there (`ls -ld`), or choose another place",
    errno.EPERM: "look whose it is and what is allowed there (`ls -ld`), or choose another place",
    errno.EROFS: "its file system can only be read: choose another place",
    errno.ENOSPC: "free some disk space, or choose another place",
    errno.EDQUOT: "your share of the disk is used up: free some, or choose another place",
    errno.ENOTDIR: "something in this path is a file, where a folder belongs",
    errno.EISDIR: "it is a folder, where a file belongs",
    errno.EEXIST: "something of this name is there already, and is not what belongs there",
    errno.ENOENT: "a folder in this path is missing, or the file went away",
    errno.ELOOP: "its links lead round in a circle",
    errno.ENAMETOOLONG: "the name is too long for its file system",
    errno.EFBIG: "its file system takes no file of this size: choose another place",
    errno.EIO: "the disk reports a fault: look after it before anything else is written there",
    errno.ESTALE: "the network drive lost it: mount it again",
    errno.EMFILE: "raise the number of files a process may open (`ulimit -n`)",
    errno.ENFILE: "too many files are open on this machine",
    errno.ENXIO: "it is a device or a socket that nobody serves",
    errno.EBUSY: "another program holds it",
    errno.ETXTBSY: "another program holds it",
}
_LONGEST = 300  # letters of a path that are shown


def is_refusal(fault: OSError) -> bool:
    """Tell whether the system refused a named path, which is a person's to mend."""
    return fault.filename is not None and fault.errno in _WAYS_OUT


def refusal(
    fault: OSError, kind: type[UserError], *, path: Path | None = None, hint: str | None = None, what: str = ""
) -> UserError:
    """Make the error that says which path was refused and why; `path` stands in where the fault names none."""
    named = os.fsdecode(fault.filename) if isinstance(fault.filename, str | bytes) else path
    shown = "a file" if named is None else f"`{str(named)[:_LONGEST]}`"
    reason = fault.strerror or str(fault)
    ways = [way for way in (_WAYS_OUT.get(fault.errno or 0), hint) if way]
    return kind(f"{what}{' ' if what else ''}{shown} cannot be used: {reason}", hint="; ".join(ways) or None)


@contextmanager
def refused_as(
    kind: type[UserError], *, path: Path | None = None, hint: str | None = None, what: str = ""
) -> Iterator[None]:
    """Let an OSError leave as a `kind` that says which path was refused, why, and what to do."""
    try:
        yield
    except OSError as fault:
        raise refusal(fault, kind, path=path, hint=hint, what=what) from fault
