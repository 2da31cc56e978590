"""Edits of Parquet and Arrow files: their bytes, the numbers in their footers and page headers, and other tables."""

from __future__ import annotations

import io
import struct
from random import Random
from typing import Any

from hostile.mutation import Edit, Edited, one_of, plain_bytes
from hostile.trees import TEXTS


def edit_parquet(rng: Random, content: bytes) -> Edited:
    """Edit a Parquet file."""
    return one_of(rng, content, _PARQUET)


def _footer(rng: Random, content: bytes) -> Edited:
    """Change bytes of the footer, which says where everything lies, or its length."""
    size = int.from_bytes(content[-8:-4], "little")
    changed = bytearray(content)
    if rng.random() < 0.2:
        struct.pack_into("<I", changed, len(changed) - 8, rng.choice((0, 1, size - 1, size + 1, 1 << 30, 0xFFFFFFFF)))
        return Edited(bytes(changed), "length of the footer", plain=True)
    start = len(content) - 8 - size
    for _ in range(rng.choice((1, 1, 2, 6))):
        changed[start + rng.randrange(size)] = rng.choice((0, 1, 0x15, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return Edited(bytes(changed), "bytes of the footer", plain=True)


def _numbers(rng: Random, content: bytes) -> Edited:
    """Change a number of the footer to a very large one."""
    size = int.from_bytes(content[-8:-4], "little")
    start = len(content) - 8 - size
    footer = bytearray(content[start:-8])
    place = rng.randrange(len(footer))
    footer[place : place + 1] = rng.choice(
        (b"\xff\xff\xff\xff\x0f", b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x01")
    )
    tail = struct.pack("<I", len(footer)) + content[-4:]
    return Edited(content[:start] + bytes(footer) + tail, f"a number at {place} of the footer", plain=True)


def _page(rng: Random, content: bytes) -> Edited:
    """Change bytes near the start of the file, where the first pages' headers are."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 3))):
        changed[4 + rng.randrange(min(200, len(changed) - 12))] = rng.randrange(256)
    return Edited(bytes(changed), "bytes of the first pages", plain=True)


def _another(rng: Random, content: bytes) -> Edited:
    """Write another table: other types, nested, null, repeated and immense values."""
    import pyarrow
    import pyarrow.parquet

    target = io.BytesIO()
    table = pyarrow.table(_columns(rng))
    pyarrow.parquet.write_table(
        table,
        target,
        compression=rng.choice(("none", "snappy", "gzip", "zstd", "lz4", "brotli")),
        use_dictionary=rng.random() < 0.5,
        data_page_version=rng.choice(("1.0", "2.0")),
        row_group_size=rng.choice((1, 3, 100_000)),
        store_schema=rng.random() < 0.7,
    )
    return Edited(target.getvalue(), f"a table of {table.schema.types}"[:200], plain=True)


def _columns(rng: Random) -> dict[str, Any]:
    import pyarrow as pa

    rows = rng.choice((0, 1, 4, 300))
    structs = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    audios: tuple[Any, ...] = (
        pa.array([{"bytes": b"RIFF", "path": "../../x.wav"}] * rows, structs),
        pa.array([{"bytes": None, "path": None}] * rows, structs),
        pa.array([None] * rows, structs),
        pa.array(["../../etc/passwd"] * rows),
        pa.array([b"\xff\xfe"] * rows, pa.binary()),
        pa.array([[0.5] * 1000] * rows, pa.list_(pa.float32())),
        pa.array([{"array": [0.1] * 100, "sampling_rate": 0}] * rows),
        pa.array([{"array": [float("nan")] * 100, "sampling_rate": 16_000}] * rows),
        pa.array([{"array": [[0.1, 0.2]] * 100, "sampling_rate": 1 << 40}] * rows),
        pa.array([{"array": ["x"] * 10, "sampling_rate": 16_000}] * rows),
        pa.array([7] * rows),
        pa.nulls(rows),
        pa.array([{"bytes": "text", "path": 5}] * rows),
    )
    text = rng.choice([text for text in TEXTS if "\ud800" not in text])
    texts: tuple[Any, ...] = (
        pa.array([text] * rows),
        pa.array([text] * rows).dictionary_encode(),
        pa.array([1.5] * rows),
        pa.array([b"\xff\xfe"] * rows, pa.binary()),
        pa.array([[text]] * rows, pa.list_(pa.string())),
        pa.nulls(rows),
        pa.array([True] * rows),
        pa.array([0] * rows, pa.timestamp("ns")),
        pa.array([0] * rows, pa.duration("us")),
        pa.array([text] * rows, pa.large_string()),
    )
    columns = {rng.choice(("audio", "path", "file_name")): rng.choice(audios), "text": rng.choice(texts)}
    columns |= {"id": rng.choice(texts), "duration": rng.choice(texts)} if rng.random() < 0.4 else {}
    return columns


_PARQUET: tuple[tuple[float, Edit], ...] = ((3, plain_bytes), (4, _footer), (2, _numbers), (3, _page), (3, _another))


# ---------------------------------------------------------------- Arrow streams


def edit_arrow(rng: Random, content: bytes) -> Edited:
    """Edit a stream of Arrow batches, as `datasets` writes it."""
    return one_of(rng, content, _ARROW)


def _lengths(rng: Random, content: bytes) -> Edited:
    """Change a number in the metadata of a message."""
    changed = bytearray(content)
    starts = [at for at in range(0, len(content) - 8, 8) if content[at : at + 4] == b"\xff\xff\xff\xff"]
    start = rng.choice(starts)
    size = int.from_bytes(content[start + 4 : start + 8], "little")
    place = start + 4 + 4 * rng.randrange(max(1, size // 4))
    value = rng.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, rng.randrange(1 << 16)))
    struct.pack_into("<I", changed, min(place, len(changed) - 4), value)
    return Edited(bytes(changed), f"{value} at {place} of a message", plain=True)


def _other_stream(rng: Random, content: bytes) -> Edited:
    import pyarrow
    import pyarrow.ipc

    columns = _columns(rng)
    columns["audio_path"] = next(iter(columns.values()))
    table = pyarrow.table(columns)
    target = io.BytesIO()
    options = pyarrow.ipc.IpcWriteOptions(compression=rng.choice((None, "lz4", "zstd")))
    with pyarrow.ipc.new_stream(target, table.schema, options=options) as stream:
        stream.write_table(table)
    return Edited(target.getvalue(), f"a stream of {table.schema.types}"[:200], plain=True)


_ARROW: tuple[tuple[float, Edit], ...] = ((3, plain_bytes), (4, _lengths), (2, _other_stream))
