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
from ttstrain.places import expanded
from ttstrain.recipe.shipped import PACKAGE
from ttstrain.tensors.hub import HUB
from ttstrain.tensors.tensorfile import ConvertedTensor, StoredTensor

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


def write(run: Path, files: Sequence[str], weights: Mapping[str, StoredTensor]) -> BaseRecord:
    """Record the base of a run that starts, and return the record."""
    record = BaseRecord(tuple(files), checksum(weights))
    document = {"schema": SCHEMA, "files": list(files), "sha256": record.sha256}
    atomic.write_text(run / FILE_NAME, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return record


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


def anchored(spec: str, directory: Path | None) -> str:
    """Return a base's file, as a recipe names it, so that it is found from anywhere."""
    place = expanded(spec)
    if spec.startswith((HUB, PACKAGE)) or place.is_absolute() or directory is None:
        return spec
    return str(directory / place)


def _as_stored(stored: StoredTensor) -> Iterator[StoredTensor]:
    """Yield what lies in the file: a merged weight is computed, and its last bits depend on the machine."""
    source = stored
    while isinstance(source, ConvertedTensor):
        source = source.source
    if not isinstance(source, MergedTensor):
        yield stored
        return
    for part in (source.base, source.down, source.up, source.magnitude):
        if part is not None:
            yield from _as_stored(part)
