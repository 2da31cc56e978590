"""What a run's folder records of the base that the run started from: `base.json`, its files and a checksum.

The checksum is over the tensors' names, types, shapes and values, not over files: the same weights in another file, or
under another name, are the same base.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ttstrain import documents
from ttstrain.data import atomic
from ttstrain.digest import running
from ttstrain.errors import CheckpointError
from ttstrain.modules.stored_lora import MergedTensor
from ttstrain.tensors.tensorfile import StoredTensor

FILE_NAME = "base.json"
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class BaseRecord:
    """A run's base as it was when the run started."""

    files: tuple[str, ...]  # as the recipe names them
    sha256: str


def checksum(weights: Mapping[str, StoredTensor]) -> str:
    """Return the SHA-256 of stored tensors, hex; one tensor at a time is in memory."""
    total = running()
    for name in sorted(weights):
        for stored in _as_stored(weights[name]):
            total.update(f"{name} {stored.dtype} {list(stored.shape)}\n".encode())
            total.update(stored.read().reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def write(run: Path, files: Sequence[str], weights: Mapping[str, StoredTensor]) -> None:
    """Record the base of a run that starts."""
    document = {"schema": SCHEMA, "files": list(files), "sha256": checksum(weights)}
    atomic.write_text(run / FILE_NAME, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def read(run: Path) -> BaseRecord | None:
    """Return a run's record; None for a run that was not started from a base, or by an earlier ttstrain.

    Raises CheckpointError where the record is damaged.
    """
    path = run / FILE_NAME
    if not path.is_file():
        return None
    found = documents.read_object(path, error=CheckpointError, keys={"schema": int, "files": list, "sha256": str})
    if found["schema"] != SCHEMA:
        raise CheckpointError(f"`{path}` has schema {found['schema']}; this ttstrain reads schema {SCHEMA}")
    return BaseRecord(tuple(map(str, found["files"])), found["sha256"])


def _as_stored(stored: StoredTensor) -> Iterator[StoredTensor]:
    """Yield what lies in the file: a merged weight is computed, and its last bits depend on the machine."""
    if isinstance(stored, MergedTensor):
        yield from (stored.base, stored.down, stored.up, *(() if stored.magnitude is None else (stored.magnitude,)))
    else:
        yield stored
