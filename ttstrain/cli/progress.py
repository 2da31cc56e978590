"""How far a long piece of work has come, on stderr: a bar on a terminal, else a line from time to time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVERY_S = 15.0  # between two lines in a log; shorter work writes none


@contextmanager
def show_progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """Give a function to call with (done, of)."""
    if not sys.stderr.isatty():
        yield _lines(title)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ttstrain.tracking.screen import screen

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen(), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def _lines(title: str) -> Callable[[int, int], None]:
    """Return a function that writes `title: done of of`, at most one line in `EVERY_S` seconds."""
    last = time.monotonic()

    def tell(done: int, of: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= EVERY_S:
            last = now
            print(f"{title}: {done:,} of {of:,}", file=sys.stderr, flush=True)

    return tell
