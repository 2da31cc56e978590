"""Worker processes: started once, they ignore the terminal's signals and exit when their parent does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from typing import Any

import torch

from ttstrain.data.pool import Pool

_context: Any = None


def start_pool(count: int, context: Any) -> Pool:
    """Start a pool whose functions get `context` from `worker_context`. It must pickle."""
    return Pool(count, initializer=_start, initargs=(context,))


def worker_context() -> Any:
    """Return `start_pool`'s `context`, inside a worker."""
    return _context


def _start(context: Any) -> None:
    global _context  # noqa: PLW0603  a pool's initializer has no other place for its result
    _context = context
    torch.set_num_threads(1)
    # Ctrl-C and a scheduler's signal go to the whole process group, but the parent needs its workers to finish.
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP"):
        if name in signal.Signals.__members__:  # Windows has not all of them
            signal.signal(signal.Signals[name], signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
