"""Start the same command once per process on this machine, as torchrun would, and pass its exit code on.

torchrun turns every failure into exit code 1; scripts depend on ours.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from ttstrain.errors import RecipeError

GRACE_S = 30.0  # for the other processes to end once one has failed
POLL_S = 0.1


def under_launcher() -> bool:
    """Whether this process is already one of several."""
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ


def launch(arguments: Sequence[str], *, nproc: int) -> int:
    """Run `ttstrain <arguments>` in `nproc` processes and return the first exit code that is not zero, else zero.

    Ctrl-C and SIGTERM reach every process, so that each can save its part and leave.
    """
    if nproc < 1:
        raise RecipeError(f"`--nproc {nproc}` starts nothing", hint="give 1 or more")
    port = _free_port()
    children = [_start(arguments, rank=rank, nproc=nproc, port=port) for rank in range(nproc)]

    def forward(number: int, _frame: FrameType | None) -> None:
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    previous = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        return _wait(children)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _start(arguments: Sequence[str], *, rank: int, nproc: int, port: int) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(nproc),
        "LOCAL_WORLD_SIZE": str(nproc),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // nproc)))
    # its own process group: a Ctrl-C at the terminal must reach the children once, through us
    return subprocess.Popen([sys.executable, "-m", "ttstrain", *arguments], env=environment, start_new_session=True)


def _wait(children: Sequence[subprocess.Popen[bytes]]) -> int:
    first: int | None = None
    deadline = float("inf")
    while any(child.poll() is None for child in children):
        failed = [child.returncode for child in children if child.returncode not in (None, 0)]
        if failed and first is None:
            first, deadline = failed[0], time.monotonic() + GRACE_S
        if time.monotonic() > deadline:
            for child in children:
                child.kill()
        time.sleep(POLL_S)
    codes = [child.returncode for child in children if child.returncode != 0]
    code = first if first is not None else (codes[0] if codes else 0)
    return code if code >= 0 else 128 - code  # killed by a signal: what a shell would report


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
