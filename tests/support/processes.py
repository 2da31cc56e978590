"""A few processes that stay, and run the same function as the ranks of one group: importing torch once is enough."""

from __future__ import annotations

import gc
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import forked
import torch

TIMEOUT_S = 60.0


class Processes:
    """Runs functions of importable modules in `count` processes at once."""

    def __init__(self, count: int, *, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        context = forked.server()
        self._ends: list[Connection] = []
        self._processes = []
        for rank in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, rank, count), daemon=True)
            process.start()
            self._ends.append(ours)
            self._processes.append(process)

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Return what each rank's call returned, in rank order; an exception that a rank raised is its result."""
        port = free_port()
        for end in self._ends:
            end.send((function, arguments, port))
        deadline = time.monotonic() + self._timeout_s
        for rank, end in enumerate(self._ends):
            if not end.poll(max(0.0, deadline - time.monotonic())):
                self.close()
                raise TimeoutError(f"rank {rank} hangs in {function.__name__}")
        return [end.recv() for end in self._ends]

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()


def _serve(end: Connection, rank: int, count: int) -> None:
    torch.set_num_threads(1)
    while True:
        function, arguments, port = end.recv()
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        try:
            result = function(*arguments)
            gc.collect()  # FSDP2's objects refer to each other, and to the group
            # Once FSDP2 was used, torch 2.11 keeps the threads of one group; the process exits all the same.
            left = [name for name in _threads() if "gloo" in name]
            if left and "torch.distributed.fsdp" not in sys.modules:
                raise RuntimeError(f"the group's threads are still there, and would abort the process at exit: {left}")
        except BaseException as error:
            traceback.print_exc()
            result = error
        end.send(result)


def _threads() -> list[str]:
    """Name this process's threads; Linux only."""
    return [(thread / "comm").read_text().strip() for thread in Path("/proc/self/task").glob("*")]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
