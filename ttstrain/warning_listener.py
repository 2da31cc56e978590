"""Forwards warnings that modules of ttstrain log with `logging` to the run's trackers.

Code without access to trackers warns with `logging.getLogger(__name__).warning(...)`. While a run is built or trained,
the warning goes to its trackers; at any other time Python prints it on stderr.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType

from typing_extensions import Self

_LOG = logging.getLogger("ttstrain")
_kept_back: ContextVar[list[str] | None] = ContextVar("warnings that wait", default=None)  # of this thread


class Listener(logging.Handler):
    """Passes warnings of every module to `tell`. Only one listener is active: a new one replaces the last."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        kept = _kept_back.get()
        if kept is None:
            self._tell(record.getMessage())
        else:
            kept.append(record.getMessage())

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    def begin(self) -> None:
        for handler in [*_LOG.handlers]:
            if isinstance(handler, Listener):
                handler.end()
        _LOG.addHandler(self)

    def end(self) -> None:
        _LOG.removeHandler(self)


@contextmanager
def kept_back() -> Iterator[list[str]]:
    """Keep from the listener what this thread warns of inside: a thread beside the training must not call trackers.

    Whoever has the list logs the warnings again. Without a listener the list stays empty.
    """
    warnings: list[str] = []
    token = _kept_back.set(warnings)
    try:
        yield warnings
    finally:
        _kept_back.reset(token)
