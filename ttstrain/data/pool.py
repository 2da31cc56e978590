"""Pools that always come to an end: what does not leave when asked to is killed, and that is told. No torch here.

Python's own pools ask their workers to leave and wait for them without a limit. Our processes ignore SIGTERM, and a
worker may hang on a drive that is gone, in a decoder, or on a lock that a killed one held: waiting for it would keep
the program from ever ending. Nor is a result waited for without a limit.
"""

from __future__ import annotations

import logging
import multiprocessing
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from typing import Any, Literal, TypeVar

from ttstrain.errors import DataError

STALLED_S = 300.0  # for one result that is waited for; the slowest recordings take seconds
PATIENCE_S = 10.0  # for what a worker is at; its results are no longer wanted
GONE_S = 5.0  # for Python to notice that killed processes are gone
_SHOWN = 3  # clips named in an error

T = TypeVar("T")
log = logging.getLogger(__name__)
_pools: weakref.WeakSet[Pool] = weakref.WeakSet()
_abandoned: list[threading.Thread] = []  # threads that hang: nothing ends them but the end of the program


class StalledError(Exception):
    """A worker has given no result within `STALLED_S`."""


class Pool(ProcessPoolExecutor):
    """A ProcessPoolExecutor whose `shutdown(cancel_futures=True)` takes `PATIENCE_S` at most."""

    def __init__(self, count: int, *, initializer: Callable[..., None], initargs: tuple[Any, ...] = ()) -> None:
        # Spawned, not forked: a fork of a process with threads and a GPU is a lottery.
        context = multiprocessing.get_context("spawn")
        super().__init__(count, mp_context=context, initializer=initializer, initargs=initargs)
        self._started: dict[int, Any] = {}  # pid -> process
        self._manager: threading.Thread | None = None
        _pools.add(self)

    def result(self, future: Future[T]) -> T:
        """Wait for what a process computes. After `STALLED_S` raises StalledError and kills all processes."""
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
                process.join(max(0.0, deadline - time.monotonic()))
        finally:  # also when Ctrl-C ends the wait
            killed = self.kill()
        if killed and not broken:
            log.warning("%d processes that loaded data did not end within %.0f s and were killed", killed, PATIENCE_S)

    def kill(self) -> int:
        """Kill every process that is still there; return how many."""
        self._note_processes()
        alive = [process for process in self._started.values() if process.is_alive()]
        for process in alive:
            process.kill()
        return len(alive)

    def gone(self, *, within_s: float) -> bool:
        """Wait until Python has cleaned up after the processes, and tell whether it did."""
        if self._manager is None:
            return True
        self._manager.join(within_s)
        return not self._manager.is_alive()

    def _note_processes(self) -> None:
        """Remember the processes and the thread that watches them, which Python's pool forgets on its way out."""
        self._started |= dict(getattr(self, "_processes", None) or {})
        self._manager = getattr(self, "_executor_manager_thread", None) or self._manager


class Threads(ThreadPoolExecutor):
    """A ThreadPoolExecutor whose `shutdown(cancel_futures=True)` takes `PATIENCE_S` at most.

    A thread that hangs cannot be ended: it is left behind, and `end_all` says so.
    """

    def result(self, future: Future[T]) -> T:
        """Wait for what a thread computes. Raises StalledError after `STALLED_S`."""
        return _result(future)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the threads end; with `cancel_futures` those still at work after `PATIENCE_S` are left behind."""
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
    """End every pool without patience, at the end of the program; False where even that left something behind."""
    pools = list(_pools)
    for pool in pools:
        pool.shutdown(wait=False, cancel_futures=True)
        pool.kill()
    gone = [pool.gone(within_s=GONE_S) for pool in pools]
    return all(gone) and not any(thread.is_alive() for thread in _abandoned)


def given_up(names: Sequence[str], at: Literal["measured", "computed", "loaded"]) -> DataError:
    """Say whose recordings or features a worker hung on, and what it was at."""
    shown = ", ".join(f"`{name}`" for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    what = {"measured": "could not be measured", "computed": "has no features", "loaded": "could not be loaded"}[at]
    return DataError(
        f"{shown}{more} {what}: nothing has come for {STALLED_S:.0f} s from what reads it",
        hint="check that the drive responds, or take the recording out of the data: a decoder may hang on it. Finished "
        "clips are kept",
    )


def _result(future: Future[T]) -> T:
    # Not `result(timeout=...)`: a worker may itself raise a TimeoutError, as a network drive does.
    if not wait([future], timeout=STALLED_S).done:
        raise StalledError
    return future.result()
