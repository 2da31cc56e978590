"""A pool of processes that always comes to an end: what does not leave when asked to is killed, and that is told.

Python's own pool asks its processes to leave and waits for them without a limit. Ours ignore SIGTERM, and one may hang
on a drive or on a lock that a killed one held: waiting for it would keep the program from ever ending. No torch here.
"""

from __future__ import annotations

import logging
import multiprocessing
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

PATIENCE_S = 10.0  # for what a process is at; its results are no longer wanted
GONE_S = 5.0  # for Python to notice that killed processes are gone

log = logging.getLogger(__name__)
_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


class Pool(ProcessPoolExecutor):
    """A ProcessPoolExecutor whose `shutdown(cancel_futures=True)` takes `PATIENCE_S` at most."""

    def __init__(self, count: int, *, initializer: Callable[..., None], initargs: tuple[Any, ...] = ()) -> None:
        # Spawned, not forked: a fork of a process with threads and a GPU is a lottery.
        context = multiprocessing.get_context("spawn")
        super().__init__(count, mp_context=context, initializer=initializer, initargs=initargs)
        self._started: dict[int, Any] = {}  # pid -> process
        self._manager: threading.Thread | None = None
        _pools.add(self)

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


def end_all() -> bool:
    """End every pool without patience, at the end of the program; False where even that left something behind."""
    pools = list(_pools)
    for pool in pools:
        pool.shutdown(wait=False, cancel_futures=True)
        pool.kill()
    return all(pool.gone(within_s=GONE_S) for pool in pools)
