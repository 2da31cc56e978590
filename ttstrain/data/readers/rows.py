"""What every reader says of a table that it cannot read, and how it shows what is written there."""

from __future__ import annotations

from ttstrain.errors import DataError


class TableError(DataError):
    """A table that cannot be read at all, with the same kind of reason code as a verdict."""

    def __init__(self, reason: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


def printable(text: str, *, limit: int = 60) -> str:
    """Escape what would change a terminal, and shorten to `limit` characters."""
    cut = text[: limit + 1]
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
