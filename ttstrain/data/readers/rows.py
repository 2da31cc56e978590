"""The readers' error, and text of a table made safe to print."""

from __future__ import annotations

from ttstrain.errors import DataError


class TableError(DataError):
    """A table that cannot be read at all, with a reason code like a finding's."""

    def __init__(self, reason: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


def printable(text: str, *, limit: int = 60) -> str:
    """Escape control characters, and shorten to `limit` characters."""
    cut = text[: limit + 1]
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
