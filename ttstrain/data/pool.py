"""Worker pools that always end: workers that do not exit in time are killed, with a warning. No torch here.

Python's own pools wait for their workers without a time limit. Our workers ignore SIGTERM, and one may hang on a drive
that is gone, in a decoder, or on a lock that a killed worker held: the program would never end. Waiting for a result
has a time limit too.
"""

from __future__ import annotations

import logging
import multiprocessing
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from multiprocessing import connection
from typing import Any, Literal, TypeVar

from ttstrain.errors import DataError

STALLED_S = 300.0  # to wait for one result; the slowest recordings take seconds
PATIENCE_S = 10.0  # at shutdown, for a worker to finish its current call
GONE_S = 5.0  # for Python to clean up after killed processes
_SHOWN = 3  # clips named in an error

T = TypeVar("T")
log = logging.getLogger(__name__)
_pools: weakref.WeakSet[Pool] = weakref.WeakSet()
_abandoned: list[threading.Thread] = []  # threads that hang: only the end of the program ends them


class StalledError(Exception):
    """A worker has given no result within `STALLED_S`."""


class Pool(ProcessPoolExecutor):
    """A ProcessPoolExecutor whose `shutdown(cancel_futures=True)` takes `PATIENCE_S` at most."""

    def __init__(self, count: int, *, initializer: Callable[..., None], initargs: tuple[Any, ...] = ()) -> None:
        # Spawned, not forked: forking a process that has threads and a CUDA context may deadlock.
        context = multiprocessing.get_context("spawn")
        super().__init__(count, mp_context=context, initializer=initializer, initargs=initargs)
        self._started: dict[int, Any] = {}  # pid -> process
        self._manager: threading.Thread | None = None
        _pools.add(self)

    def result(self, future: Future[T]) -> T:
        """Wait for a future's result. After `STALLED_S`, kills all processes and raises StalledError."""
        try:
            return _result(future)
        except StalledError:
            self.kill()
            raise

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes; with `cancel_futures` those that are still at work after `PATIENCE_S` are killed."""
        self._note_processes()
        if not (wait and cancel_futures):
            super().shutdown(wait=wait, cancel_futures=cancel_futures)
            return
        broken = bool(getattr(self, "_broken", False))
        super().shutdown(wait=False, cancel_futures=True)
        deadline = time.monotonic() + (0.0 if broken else PATIENCE_S)
        try:
            for process in self._started.values():
                _has_ended(process, within_s=max(0.0, deadline - time.monotonic()))
        finally:  # also when Ctrl-C ends the wait
            killed = self.kill()
        if killed and not broken:
            log.warning("%d processes that loaded data did not end within %.0f s and were killed", killed, PATIENCE_S)

    def pids(self) -> list[int]:
        """List the process ids of the workers that are alive."""
        self._note_processes()
        return [pid for pid, process in self._started.items() if not _has_ended(process)]

    def kill(self) -> int:
        """Kill every process that is still alive; return how many."""
        self._note_processes()
        alive = [process for process in self._started.values() if not _has_ended(process)]
        for process in alive:
            process.kill()
        return len(alive)

    def gone(self, *, within_s: float) -> bool:
        """Wait until Python has cleaned up after the processes; return whether it did."""
        if self._manager is None:
            return True
        self._manager.join(within_s)
        return not self._manager.is_alive()

    def _note_processes(self) -> None:
        """Remember the processes and the thread that manages them: Python's pool drops both during shutdown."""
        self._started |= dict(getattr(self, "_processes", None) or {})
        self._manager = getattr(self, "_executor_manager_thread", None) or self._manager


class Threads(ThreadPoolExecutor):
    """A ThreadPoolExecutor whose `shutdown(cancel_futures=True)` takes `PATIENCE_S` at most.

    A thread that hangs cannot be ended: it is left running, and `end_all` then returns False.
    """

    def result(self, future: Future[T]) -> T:
        """Wait for a future's result. Raises StalledError after `STALLED_S`."""
        return _result(future)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads; with `cancel_futures` those still at work after `PATIENCE_S` are left running."""
        if not (wait and cancel_futures):
            super().shutdown(wait=wait, cancel_futures=cancel_futures)
            return
        super().shutdown(wait=False, cancel_futures=True)
        deadline = time.monotonic() + PATIENCE_S
        threads = list(self._threads)
        try:
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))
        finally:  # also when Ctrl-C ends the wait
            _abandoned.extend(thread for thread in threads if thread.is_alive())


def end_all() -> bool:
    """End every pool at once, at the end of the program; return False if a process or thread is still running."""
    pools = list(_pools)
    for pool in pools:
        pool.shutdown(wait=False, cancel_futures=True)
        pool.kill()
    gone = [pool.gone(within_s=GONE_S) for pool in pools]
    return all(gone) and not any(thread.is_alive() for thread in _abandoned)


def given_up(names: Sequence[str], at: Literal["measured", "computed", "loaded"]) -> DataError:
    """Return the error about clips on which a worker hung."""
    shown = ", ".join(f"`{name}`" for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    what = {"measured": "could not be measured", "computed": "has no features", "loaded": "could not be loaded"}[at]
    return DataError(
        f"{shown}{more} {what}: nothing has come for {STALLED_S:.0f} s from what reads it",
        hint="check that the drive responds, or take the recording out of the data: a decoder may hang on it. Finished "
        "clips are kept",
    )


def _has_ended(process: Any, *, within_s: float = 0.0) -> bool:
    # Not `is_alive()`, which is True of an ended process while the pool's own thread collects its exit code.
    return bool(connection.wait([process.sentinel], within_s))


def _result(future: Future[T]) -> T:
    # Not `result(timeout=...)`: a worker may itself raise a TimeoutError, as a network drive does.
    if not wait([future], timeout=STALLED_S).done:
        raise StalledError
    return future.result()
