"""The lock of a run's folder: one process writes into it at a time.

`<run>/.lock` is held with flock: the system frees it when its holder ends, however it ends, and a network drive shows
it to other machines. The file's content is for people: host, process, start and command.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Literal

from ttstrain.documents import check_object, parse
from ttstrain.errors import UserError
from ttstrain.logins import without_logins
from ttstrain.shell import quoted

LOCK = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # errors of a network drive that is mounted without locks
SAYS_WITHIN_S = 1.0  # a process that has taken the lock has named itself in its file
_AT_ONCE = getattr(os, "O_NONBLOCK", 0)  # a pipe in the file's place would never open
_MAX_BYTES = 10_000  # bytes of the file that are read: a command line may be long

_IN_LOCK: dict[str, type] = {"host": str, "pid": int, "since": str, "command": str}

Answer = Literal["held", "busy", "no locks here"]
Holder = Literal["held", "free", "unknown"]


class RunBusyError(UserError):
    """Another process writes into the run's folder."""


class RunLock:
    """The right to write into a run's folder, until `release`."""

    def __init__(self, folder: Path, descriptor: int, place: int | None, *, made: bool, warning: str | None) -> None:
        self.folder = folder
        self.warning = warning  # set where the file system has no locks
        self._made = made
        self._descriptor: int | None = descriptor
        self._place = place  # descriptor of the folder: it tells it from another folder of the same name
        self._process = os.getpid()

    def lost(self) -> bool:
        """Tell whether the folder was removed or renamed since. False where the drive does not answer."""
        if self._place is None:
            return False
        try:
            return not os.path.samestat(self.folder.stat(), os.fstat(self._place))
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False

    def release(self) -> None:
        """Release the lock. A folder that was made for this lock and is still empty is removed."""
        if self._descriptor is None or os.getpid() != self._process:
            return
        with suppress(OSError):
            if self._place is not None:
                os.unlink(LOCK, dir_fd=self._place)  # also where the folder was renamed
            else:
                (self.folder / LOCK).unlink()
        _close(self._descriptor)
        if self._place is not None:
            _close(self._place)
        self._descriptor = None
        if self._made:
            with suppress(OSError):  # the folder is not empty
                self.folder.rmdir()

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def hold(folder: Path, *, made: bool = False) -> RunLock:
    """Take the lock of a run's folder; `made`: this process has just created the folder.

    Raises RunBusyError that names the holder, and UserError where the folder cannot be written.
    """
    descriptor, answer = _open_locked(folder / LOCK)
    if answer == "busy":
        os.close(descriptor)
        raise busy(folder)
    warning = None
    if answer == "no locks here":
        warning = f"WARNING: the file system of `{folder}` has no locks: a second process could write into it unnoticed"
    place = None if sys.platform == "win32" else os.open(folder, os.O_RDONLY)
    with suppress(OSError):  # a full disk: the lock is held, but the file does not name its holder
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _myself().encode(), 0)
    _open_here.update(number for number in (descriptor, place) if number is not None)
    return RunLock(folder, descriptor, place, made=made, warning=warning)


def is_held(folder: Path) -> bool:
    """Tell whether a process writes into a run's folder now; False where that cannot be found out."""
    return holder(folder) == "held"


def holder(folder: Path) -> Holder:
    """Tell whether a process writes into a run's folder now; `unknown` where the file system has no locks."""
    if sys.platform == "win32":
        return "unknown" if (folder / LOCK).exists() else "free"
    import fcntl

    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | _AT_ONCE | getattr(os, "O_NOFOLLOW", 0))
    except OSError:  # a run that ends takes the file away
        return "free"
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return "held"
    except OSError:
        return "unknown"
    finally:
        os.close(descriptor)  # and with it the lock
    return "free"


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | _AT_ONCE)


def _open_locked(path: Path) -> tuple[int, Answer]:
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError as error:
            raise UserError(
                f"the lock file `{path}` cannot be written: {error.strerror}",
                hint="check that you may write into the run's folder and that its disk is not read-only",
            ) from error
        answer = _try_lock(descriptor)
        if answer == "busy" or _is_at(descriptor, path):
            return descriptor, answer
        os.close(descriptor)  # its former holder removed the file after it was opened here


def _try_lock(descriptor: int) -> Answer:
    if sys.platform == "win32":
        return "no locks here"
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "busy"
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return "no locks here"
    return "held"


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _myself() -> str:
    return json.dumps(
        {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": datetime.now().astimezone().isoformat(timespec="seconds"),
            "command": without_logins(quoted("ttstrain", *sys.argv[1:])),
        }
    )


def busy(folder: Path) -> RunBusyError:
    """Return the error that names the holder of a run's lock."""
    return RunBusyError(
        f"`{folder}` is being written by {_who_holds(folder / LOCK)}",
        hint=f"wait until it ends, or make it save and stop: `touch {quoted(folder / 'STOP')}`",
    )


def _who_holds(path: Path) -> str:
    """Name the holder from the lock's file; from the system's list of locks where the disk was too full to say it."""
    ends = time.monotonic() + SAYS_WITHIN_S
    while True:
        with suppress(OSError, ValueError), open(path, "rb", opener=_opener) as file:
            holder = check_object(parse(file.read(_MAX_BYTES)), _IN_LOCK)
            return f"process {holder['pid']} on `{holder['host']}` since {holder['since']}: `{holder['command']}`"
        if time.monotonic() > ends:
            break
        time.sleep(0.05)  # it has just taken the lock
    with suppress(OSError, ValueError):
        place = path.stat()
        named = f"{os.major(place.st_dev):02x}:{os.minor(place.st_dev):02x}:{place.st_ino}"
        since = datetime.fromtimestamp(place.st_mtime).astimezone().isoformat(timespec="seconds")
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()  # such as `1: FLOCK  ADVISORY  WRITE 11851 fe:00:2146449 0 EOF`
            if words[1] == "FLOCK" and words[5] == named and words[4] != "0":  # 0: a process of another container
                return f"process {words[4]} on `{socket.gethostname()}` since {since}"
    return "another process"


# ---------------------------------------------------------------- forked processes

_open_here: set[int] = set()  # descriptors of the locks that this process holds


def _close(descriptor: int) -> None:
    _open_here.discard(descriptor)
    os.close(descriptor)


def _let_go_in_child() -> None:
    """Close a forked process's copies: otherwise it would hold its parent's lock after the parent has ended."""
    for descriptor in list(_open_here):
        _close(descriptor)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)
