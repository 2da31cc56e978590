"""Which columns of a table were read as what, in one line for people."""

from __future__ import annotations

from collections.abc import Sequence

from ttstrain.contract.data import Remark
from ttstrain.contract.table import Column
from ttstrain.data.readers.rows import printable

EXAMPLE = 24  # characters
MOST_UNUSED = 6


def columns_used(columns: Sequence[Column]) -> tuple[Remark, ...]:
    """Name each column with its first value, those that are not used too; nothing for data without columns."""
    if not columns:
        return ()
    uses = dict.fromkeys(column.use for column in columns if column.use)
    parts = [f"{use}: " + " or ".join(_shown(column) for column in columns if column.use == use) for use in uses]
    unused = [column for column in columns if not column.use]
    if unused:
        more = f" and {len(unused) - MOST_UNUSED} more" if len(unused) > MOST_UNUSED else ""
        parts.append("not used: " + ", ".join(map(_shown, unused[:MOST_UNUSED])) + more)
        if "speaker" not in uses:
            parts.append("names of voices are read from a column `speaker`")
    return (Remark("columns", "; ".join(parts)),)


def _shown(column: Column) -> str:
    return f"{printable(column.name, limit=EXAMPLE)} ({printable(column.example, limit=EXAMPLE)})"
