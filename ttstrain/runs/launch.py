"""Start the same command once per process on this machine, as torchrun would, and pass its exit code on.

torchrun turns every failure into exit code 1; scripts depend on ours. No torch here: the launcher only waits.
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

from ttstrain.data.location import usable_cores
from ttstrain.errors import PeerError, RecipeError
from ttstrain.train.launched import LAUNCHER, under_launcher

GRACE_S = 30.0  # for the other processes to end by themselves, and finish a checkpoint, once one has failed
POLL_S = 0.1
_FORWARDED = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)
)
_PATIENCE = 3  # Ctrl-Cs before everything is killed; the first saves, the second stops at once


def launch(arguments: Sequence[str], *, nproc: int) -> int:
    """Run `ttstrain <arguments>` in `nproc` processes and return the exit code of the one that failed first, else zero.

    Ctrl-C and SIGTERM are passed on to every process, so that all save and leave together. Once one has failed, the
    others get `GRACE_S` seconds to end. Raises RecipeError within processes of a launcher, and PeerError when a process
    was killed and so printed no error.
    """
    if under_launcher():
        raise RecipeError(f"`--nproc {nproc}` within processes that are started already", hint="drop `--nproc`")
    signals: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        signals.append(number)

    sighup = getattr(signal, "SIGHUP", None)
    ignored = {sighup} if sighup is not None and signal.getsignal(sighup) == signal.SIG_IGN else set()  # nohup
    previous = {number: signal.signal(number, note) for number in _FORWARDED if number not in ignored}
    port = _free_port()
    children: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(nproc):
            children.append(_start(arguments, rank=rank, nproc=nproc, port=port))
        return _wait(children, signals)
    finally:
        for child in children:
            _kill(child)
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
        LAUNCHER: str(os.getpid()),
    }
    environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // nproc)))
    # its own process group: a Ctrl-C at the terminal must reach the children once, through us
    return subprocess.Popen([sys.executable, "-m", "ttstrain", *arguments], env=environment, start_new_session=True)


def _wait(children: Sequence[subprocess.Popen[bytes]], signals: list[int]) -> int:
    """Wait for all processes, pass signals on to them, and return one exit code for all."""
    asked: list[int] = []
    failed: dict[int, int] = {}  # rank -> exit code, in the order of failing
    deadline = float("inf")
    while any(child.poll() is None for child in children):
        while signals:
            asked.append(signals.pop(0))
            _send(children, asked[-1])
        failed = _failures(children, known=failed)
        if failed and deadline == float("inf"):
            deadline = time.monotonic() + GRACE_S
        if time.monotonic() > deadline or asked.count(signal.SIGINT) >= _PATIENCE:
            break
        time.sleep(POLL_S)
    failed = _failures(children, known=failed)
    killed = [child for child in children if _kill(child)]
    if killed and not failed:
        return 128 + signal.SIGINT
    return _verdict(failed, asked)


def _failures(children: Sequence[subprocess.Popen[bytes]], *, known: dict[int, int]) -> dict[int, int]:
    ended = {rank: child.returncode for rank, child in enumerate(children) if child.poll() not in (None, 0)}
    return known | {rank: code for rank, code in ended.items() if rank not in known}


def _verdict(failed: dict[int, int], asked: Sequence[int]) -> int:
    """Choose the exit code: that of the first process that failed by itself, not of one that only lost the others."""
    if not failed:
        return 0
    rank, code = next(((rank, code) for rank, code in failed.items() if code != PeerError.exit_code), (0, 1))
    if code >= 0:
        return code
    if -code not in asked:
        raise PeerError(
            f"the process of rank {rank} was killed by {signal.Signals(-code).name}",
            hint="the machine's memory may be short; `ttstrain resume` goes on from the last checkpoint",
            exit_code=128 - code,
        )
    return 128 - code  # as a shell reports a death by signal


def _send(children: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for child in children:
        if child.poll() is None:
            child.send_signal(number)


def _kill(child: subprocess.Popen[bytes]) -> bool:
    """Kill a process and its process group; return False where it had ended already."""
    if child.poll() is not None:
        return False
    if hasattr(os, "killpg"):
        os.killpg(child.pid, signal.SIGKILL)
    else:
        child.kill()
    child.wait()
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
