"""A computation on a second core, in a fork of this process: it sees all that is in memory, and sends its result back.

For pure functions over large data, of which sending to another process would take as long as computing. Forks are made
only on Linux, where this process has no other thread and torch is not loaded; elsewhere, and wherever a fork fails, the
result is computed when it is asked for.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Generic, TypeVar

from ttstrain.data.location import usable_cores

MANY = 100_000  # rows or clips, for which a fork saves time

T = TypeVar("T")


class Forked(Generic[T]):
    """The result of a function that changes nothing, computed beside what this process does until it is asked for."""

    def __init__(self, compute: Callable[[], T], *, items: int) -> None:
        """Begin to compute; `items` says over how many rows or clips."""
        self._compute = compute
        self._fork = _fork(compute) if items >= MANY and _may_fork() else None

    def result(self) -> T:
        """Return what the function returns. Raises what it raises."""
        if self._fork is None:
            return self._compute()
        process, answer = self._fork
        self._fork = None
        try:
            result: T = answer.recv()
        except (EOFError, OSError):  # it was killed, or raised an error, which is raised here then
            result = self._compute()
        finally:
            answer.close()
            os.waitpid(process, 0)
        return result


def _may_fork() -> bool:
    alone = threading.active_count() == 1 and "torch" not in sys.modules
    return sys.platform == "linux" and alone and usable_cores() > 1


def _fork(compute: Callable[[], object]) -> tuple[int, Connection] | None:
    """Return a new process that computes, and where its result arrives; None where the system gives no process."""
    ours, theirs = Pipe(duplex=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads inside libraries, which wait for work
            process = os.fork()
    except OSError:
        return None
    if process:
        theirs.close()
        return process, ours
    try:
        ours.close()
        theirs.send(compute())
    finally:
        os._exit(0)
