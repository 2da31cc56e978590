"""A system that refuses: calls that fail in this process, and a run that waits where a test wants it.

Each function changes the process that calls it, for the rest of its life.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

BALLAST = "ballast"  # a file that fills a disk
CALLS = {"rename": ("rename", "replace"), "unlink": ("unlink", "remove", "rmdir")}


def refuse(kind: str, error: int, under: Path, first: int = 1, last: int = 1_000_000) -> None:
    """Let calls of a kind fail from the `first` to the `last` of those that concern a file below `under`."""
    counted = 0

    def refusing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *rest: Any, dir_fd: int | None = None, **more: Any) -> Any:
            nonlocal counted
            place = _place(path, dir_fd)
            given = more if dir_fd is None else {**more, "dir_fd": dir_fd}
            exists = os.path.lexists(place)
            if exists and place.startswith(f"{under}/"):
                counted += 1
                if first <= counted <= last:
                    raise OSError(error, os.strerror(error), str(path))
            return real(path, *rest, **given)

        return call

    for name in CALLS[kind]:
        setattr(os, name, refusing(getattr(os, name)))


def _place(path: Any, dir_fd: int | None) -> str:
    name = os.fsdecode(path)
    folder = str(Path.cwd()) if dir_fd is None else str(Path(f"/proc/self/fd/{dir_fd}").readlink())
    return os.path.normpath(f"{folder}/{name}" if not name.startswith("/") else name)


def small_files(most: int) -> None:
    """Let writing beyond `most` bytes of any file fail, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def fill_disk(disk: Path, first: int, last: int) -> None:
    """Fill a small disk before a run takes step `first`, and make room again before it takes step `last`."""
    ballast = disk / BALLAST

    def before(step: int) -> None:
        if step == first and not ballast.exists():
            with suppress(OSError), ballast.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
        if step == last:
            ballast.unlink(missing_ok=True)

    _before_each_step(before)


def wait_before(step: int, go: Path) -> None:
    """Let a run wait, before it takes `step`, until the file `go` exists; `<go>.waits` says that it does."""

    def before(next_step: int) -> None:
        if next_step == step:
            Path(f"{go}.waits").touch()
            while not go.exists():
                time.sleep(0.01)

    _before_each_step(before)


def die_before(step: int) -> None:
    """Kill a run before it takes `step`."""

    def before(next_step: int) -> None:
        if next_step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    _before_each_step(before)


def _before_each_step(before: Callable[[int], None]) -> None:
    """Call `before` with the number of each step before it is taken, once no checkpoint is being written."""
    from ttstrain.train import loop

    real = loop.take_step

    def take_step(run: Any, *rest: Any, **more: Any) -> Any:
        if run.store._writer is not None:
            run.store._writer.join()
        before(run.progress.step + 1)
        return real(run, *rest, **more)

    loop.take_step = take_step
