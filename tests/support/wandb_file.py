"""Reads the `.wandb` files that W&B keeps in a run's folder, to see what was logged.

Such a file is a LevelDB log (google/leveldb, doc/log_format.md) with a header of its own in its first block: blocks of
32 KiB hold records of crc32 (4 bytes), length (2), type (1) and data; a long record comes in several parts.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ttstrain import documents

_BLOCK = 32768
_FILE_HEADER = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
_RECORD_HEADER = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4  # types of a record


def read_offline_run(path: Path) -> list[dict[str, Any]]:
    """Return the rows a run logged, in order, with W&B's own `_step`, `_runtime` and `_timestamp`.

    A torn end, as a lost machine leaves it, ends the reading. Raises ValueError when it is no such file.
    """
    data = path.read_bytes()
    if not data.startswith(_FILE_HEADER):
        raise ValueError(f"`{path}` is not a .wandb file")
    return list(_rows(data))


def run_files(run_dir: Path, run_id: str) -> list[Path]:
    """List a run's `.wandb` files, oldest first: one for each time it was started."""
    files = run_dir.glob(f"wandb/*run-*/run-{run_id}.wandb")
    return sorted(files, key=lambda file: file.parent.name.removeprefix("offline-"))  # the rest begins with the time


def _rows(data: bytes) -> Iterator[dict[str, Any]]:
    from wandb.proto import wandb_internal_pb2

    for content in records(data):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        if record.WhichOneof("record_type") == "history":
            row: dict[str, Any] = {}
            for item in record.history.item:
                *parents, name = [item.key] if item.key else item.nested_key  # a picture's path, size, ...
                place = row
                for parent in parents:
                    place = place.setdefault(parent, {})
                place[name] = documents.parse(item.value_json, numbers="any")
            yield row | {"_step": record.history.step.num}


def records(data: bytes) -> Iterator[bytes]:
    """Yield the whole records of a file."""
    position, parts, inside = len(_FILE_HEADER), b"", False
    while position + _RECORD_HEADER.size <= len(data):
        room = _BLOCK - position % _BLOCK
        if room < _RECORD_HEADER.size:  # too small for a record: padding
            position += room
            continue
        checksum, length, kind = _RECORD_HEADER.unpack_from(data, position)
        content = data[position + _RECORD_HEADER.size :][:length]
        if kind == 0 or len(content) < length or zlib.crc32(content, zlib.crc32(bytes([kind]))) != checksum:
            return  # torn
        position += _RECORD_HEADER.size + length
        if kind in (_FULL, _FIRST):
            parts, inside = content, True
        elif kind in (_MIDDLE, _LAST):
            parts += content
        if kind in (_FULL, _LAST) and inside:
            yield parts
            inside = False
