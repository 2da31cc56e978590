"""Facts about the launcher that started this process: torchrun, or our own `--nproc`. No torch here."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ttstrain.errors import PeerError, RecipeError, UserError

LAUNCHER = "TTSTRAIN_LAUNCHER"  # our launcher's process id, in its children's environment
_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def under_launcher() -> bool:
    """Whether this process is already one of several."""
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ


def launched() -> bool:
    """Whether our own launcher started this process."""
    return LAUNCHER in os.environ


def attempt() -> int:
    """Return how often torch's elastic agent has started the processes of this launch again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def has_agent_store() -> bool:
    """Whether the elastic agent that started this process serves the store at MASTER_ADDR, over all attempts."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)


def first_here() -> bool:
    """Whether this is the first process on its machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


@contextmanager
def first_speaks() -> Iterator[None]:
    """Let only the first process of a machine report an error that all of them would report."""
    try:
        yield
    except UserError as error:
        if first_here():
            raise
        raise PeerError(error.message, exit_code=error.exit_code, told=True) from error


def check_environment() -> None:
    """Raise RecipeError if the environment sets WORLD_SIZE without the other variables of a process group."""
    missing = [name for name in _NEEDED if name not in os.environ]
    if missing:
        raise RecipeError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']} asks for several processes, but {', '.join(missing)} is not set",
            hint="start them with `--nproc` or torchrun, or unset WORLD_SIZE",
        )


def end_with_launcher() -> None:
    """Send this process SIGTERM when our launcher ends for any reason, so that it saves and leaves. Linux only."""
    if sys.platform != "linux" or not launched():
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != int(os.environ[LAUNCHER]):
        os.kill(os.getpid(), signal.SIGTERM)
