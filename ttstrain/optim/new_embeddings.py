"""New token embeddings, trained alone at the start of a run (`model.first_new_rows`).

Meanwhile every other parameter is in a frozen group, and the old embeddings are restored after each update, because
weight decay and momentum change rows without a gradient. Afterwards the tables' optimizer state is reset: AdamW counts
steps per table, so the old embeddings would otherwise start with the bias correction of a later step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ttstrain.errors import CheckpointError
from ttstrain.tensors.sharded import first_row, held, is_sharded


class NewEmbeddings:
    """Which rows of which tables train alone until `steps`. A `Stateful`: a resumed run has no base to find them by."""

    def __init__(self, steps: int, tables: Mapping[str, nn.Parameter]) -> None:
        self.steps = steps
        self.over = False  # the optimizer state of the tables was reset
        self._tables = dict(tables)
        self._rows = {name: torch.zeros(0, dtype=torch.long, device=table.device) for name, table in tables.items()}

    @property
    def count(self) -> int:
        return sum(len(rows) for rows in self._rows.values())

    @property
    def tables(self) -> Mapping[str, nn.Parameter]:
        return self._tables

    def choose(self, rows: Mapping[str, Sequence[int]]) -> None:
        """Set the rows of each table that are new."""
        for name, table in self._tables.items():
            self._rows[name] = torch.tensor(list(rows.get(name, ())), dtype=torch.long, device=table.device)

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Set the gradients of old embeddings to zero."""
        for name, table in self._tables.items():
            if table.grad is not None:
                gradient, rows = held(table.grad), self._held(name)
                kept = gradient[rows]
                gradient.zero_()[rows] = kept

    @contextmanager
    def old_rows_kept(self) -> Iterator[None]:
        """Restore the old embeddings, bit for bit, after the update inside."""
        before = {name: held(table).detach().clone() for name, table in self._tables.items()}
        yield
        with torch.no_grad():
            for name, table in self._tables.items():
                rows = self._held(name)
                before[name][rows] = held(table)[rows]
                held(table).copy_(before[name])

    def _held(self, name: str) -> Tensor:
        """Return the new rows that this process holds of a table, counted from its first one."""
        table, rows = self._tables[name], self._rows[name]
        if not is_sharded(table):
            return rows
        start = first_row(table)
        return rows[(rows >= start) & (rows < start + len(held(table)))] - start

    def state_dict(self) -> dict[str, Any]:
        return {"rows": dict(self._rows), "over": self.over}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        rows: Mapping[str, Tensor] = state_dict["rows"]
        if set(rows) != set(self._tables):
            raise CheckpointError(
                f"the checkpoint has new embeddings for {', '.join(rows)}, this run for {', '.join(self._tables)}"
            )
        self._rows = {name: rows[name].to(table.device, copy=True) for name, table in self._tables.items()}
        self.over = bool(state_dict["over"])
