"""Edits of safetensors files: the length of the header, the header as JSON, the offsets, the data."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from hostile.mutation import LONG_SIZES, Edit, Edited, any_bytes, one_of
from hostile.trees import edit_tree, nested, written

_DTYPES = (
    "F64",
    "F32",
    "F16",
    "BF16",
    "I64",
    "I32",
    "I16",
    "I8",
    "U8",
    "U32",
    "U16",
    "BOOL",
    "F8_E4M3",
    "C64",
    "f32",
    "",
)


def edit_safetensors(rng: Random, content: bytes) -> Edited:
    """Edit a file of tensors."""
    return one_of(rng, content, _EDITS)


def take_apart(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header and the data."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def put_together(header: Any, data: bytes, *, length: int | None = None) -> bytes:
    """Write a header, padded as the format asks, and data."""
    text = written(header).encode("utf-8", "surrogatepass")
    text += b" " * (-len(text) % 8)
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def _length(rng: Random, content: bytes) -> Edited:
    header, data = take_apart(content)
    own = int.from_bytes(content[:8], "little")
    length = rng.choice((*LONG_SIZES, own - 1, own + 1, own + 8, len(content), own * 2))
    return Edited(put_together(header, data, length=length), f"header of {length} bytes", plain=length == own)


def _tree(rng: Random, content: bytes) -> Edited:
    header, data = take_apart(content)
    tree, how = edit_tree(rng, header)
    return Edited(put_together(tree, data), how, plain="metadata" in how or "swapped" in how)


def _field(rng: Random, content: bytes) -> Edited:
    """Change one tensor's type, shape or place within what is valid, or nearly."""
    header, data = take_apart(content)
    name = rng.choice([name for name in header if name != "__metadata__"])
    tensor = header[name]
    how = rng.choice(("dtype", "shape", "transposed", "offsets", "moved", "swapped", "renamed"))
    if how == "dtype":
        tensor["dtype"] = rng.choice(_DTYPES)
        how = f"dtype {tensor['dtype']}"
    elif how == "shape":
        tensor["shape"] = rng.choice(
            ([], [0], [-1], [1 << 40], [1 << 63], [1] * 100, [2, 2], [1 << 32, 1 << 32], [0, 1 << 62])
        )
    elif how == "transposed":
        tensor["shape"] = tensor["shape"][::-1]
    elif how == "offsets":
        tensor["data_offsets"] = [rng.choice(LONG_SIZES), rng.choice(LONG_SIZES)]
    elif how == "moved":
        start, end = tensor["data_offsets"]
        tensor["data_offsets"] = [start + 4, end + 4]
    elif how == "swapped":
        other = rng.choice([key for key in header if key != "__metadata__"])
        header[name], header[other] = header[other], header[name]
        how = f"swapped with {other}"
    else:
        header[name + rng.choice(("x", "\0", "\u202e"))] = header.pop(name)
    # F16 and BF16, and two tensors of one shape that changed places, are a valid file of another net.
    plain = how.startswith(("dtype BF16", "dtype F16", "swapped"))
    return Edited(put_together(header, data), f"{name}: {how}", plain=plain)


def _data(rng: Random, content: bytes) -> Edited:
    header, data = take_apart(content)
    changed = any_bytes(rng, data)
    return Edited(put_together(header, changed.content), f"data: {changed.how}", plain=changed.plain)


def _huge_header(rng: Random, content: bytes) -> Edited:
    header, data = take_apart(content)
    kind = rng.choice(("many", "deep", "metadata"))
    if kind == "many":
        more = {f"t{number}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(20_000)}
        return Edited(put_together({**more, **header}, data), "20,000 empty tensors")
    if kind == "deep":
        return Edited(put_together({**header, "deep": nested(6000, kind="list")}, data), "a deep header")
    header["__metadata__"] = {"a": "x" * (1 << 20), "b": "\ud800"}
    return Edited(put_together(header, data), "a megabyte of metadata", plain=True)


_EDITS: tuple[tuple[float, Edit], ...] = (
    (1, any_bytes),
    (2, _length),
    (5, _tree),
    (6, _field),
    (2, _data),
    (1, _huge_header),
)
