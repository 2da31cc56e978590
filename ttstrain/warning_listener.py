"""Forwards warnings that modules of ttstrain log with `logging` to the run's trackers.

Code without access to trackers warns with `logging.getLogger(__name__).warning(...)`. While a run is built or trained,
the warning goes to its trackers; at any other time Python prints it on stderr.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType

from typing_extensions import Self

_LOG = logging.getLogger("ttstrain")


class Listener(logging.Handler):
    """Passes warnings of every module to `tell`. Only one listener is active: a new one replaces the last."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(record.getMessage())

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
