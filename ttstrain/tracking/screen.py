"""Writing to stderr where it may be gone: a closed pipe, a terminal that hung up, a log file on a full disk."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import IO, Any, cast

from rich.console import Console

from ttstrain.terminal import safe_console


def screen(**options: Any) -> Console:
    """Make a console on stderr. Text that cannot be written is dropped without an error."""
    return safe_console(cast(IO[str], _Stderr()), **options)


class _Stderr:
    """The current `sys.stderr`; write errors are suppressed."""

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):  # ValueError: closed
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def _stream(self) -> IO[str]:
        # While a live panel is shown, rich puts a proxy in stderr's place that prints to this very console.
        return cast(IO[str], getattr(sys.stderr, "rich_proxied_file", sys.stderr))
