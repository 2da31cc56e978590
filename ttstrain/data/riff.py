"""Checks the lengths in a wav's header against the file: libsndfile reads a truncated file without an error.

Layout of the container: Microsoft and IBM, "Multimedia Programming Interface and Data Specifications 1.0" (1991).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ttstrain.data.shards import identity, opened

_UNCOMPRESSED = (1, 3, 6, 7, 0xFFFE)  # whole numbers, fractions, A-law, u-law, and one of them in an extended header
_COMPANDED = (6, 7)  # A-law and u-law
_FIRST_CHUNKS = 4096  # bytes in which the format is looked for
STREAMED = 0xFFFFFFFF  # written by programs that stream and cannot seek back to the header


@dataclass(frozen=True, slots=True)
class HeaderFault:
    reason: str
    why: str


def check_riff(path: Path) -> HeaderFault | None:
    """Return what is wrong with the header of a wav; None if it is valid, and for any other kind of file."""
    with opened(path) as file:
        if file.read(4) != b"RIFF":
            return None
        file.seek(8)
        if file.read(4) != b"WAVE":
            return None
        return _check_chunks(file, identity(path).size)


def contradiction(path: Path) -> str | None:
    """Say where a wav's header contradicts itself or the file; None for any other kind of file.

    Rate, channels and bits are what is decoded by; the bytes of a frame and of a second follow from them.
    """
    with opened(path) as file:
        head = file.read(_FIRST_CHUNKS)
        if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
            return None
        if all(name != b"data" for name, _, _ in _chunks(file, identity(path).size)):
            return "the sizes of its chunks do not lead to its samples"
    return _of_format(head)


def _of_format(head: bytes) -> str | None:
    at = head.find(b"fmt ", 12)
    if at < 0 or len(head) < at + 24:
        return None
    kind, channels, rate, per_s, block, bits = struct.unpack_from("<HHIIHH", head, at + 8)
    if (kind not in _UNCOMPRESSED and bits > 8) or (kind in _COMPANDED and bits != 8):
        return f"its header states {bits} bits a sample, of encoding {kind}, which has no more than 8"
    if kind not in _UNCOMPRESSED:
        return None
    if block != channels * -(-bits // 8):
        return f"its header states {channels} channels of {bits} bits, but {block} bytes a frame"
    if per_s != rate * block:
        return f"its header states {rate} frames of {block} bytes a second, but {per_s} bytes a second"
    return None


def _check_chunks(file: BinaryIO, file_size: int) -> HeaderFault | None:
    rate, block = 0, 1
    for name, body, size in _chunks(file, file_size):
        if name == b"fmt " and body + 16 <= file_size:
            _, _, rate, _, block, _ = struct.unpack("<HHIIHH", file.read(16))
            if rate == 0:
                return HeaderFault("bad_header", "its header says 0 samples a second")
        elif name == b"data":
            return _check_data(file, size, file_size - body, rate * max(1, block))
    return None  # no data chunk: decoding fails later, or finds one where none should be


def _chunks(file: BinaryIO, file_size: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, where its body begins, size) of every chunk; the file stands at the body."""
    position = 12
    while position + 8 <= file_size:
        file.seek(position)
        name, size = struct.unpack("<4sI", file.read(8))
        yield name, position + 8, size
        position += 8 + size + size % 2


def _check_data(file: BinaryIO, claimed: int, there: int, bytes_per_s: int) -> HeaderFault | None:
    per_s = max(1, bytes_per_s)
    if claimed == STREAMED:
        return None
    if claimed > there:
        if not there:
            return HeaderFault("no_samples", "its header promises samples, none follow")
        why = f"its header says {claimed / per_s:.2f} s, only {there / per_s:.2f} s are there: copy it again"
        return HeaderFault("truncated", why)
    rest = there - claimed - claimed % 2
    if rest > 0 and not _may_follow(file, rest):
        why = f"its header says {claimed / per_s:.2f} s, {there / per_s:.2f} s of samples follow"
        return HeaderFault("length_mismatch", why)
    return None


def _may_follow(file: BinaryIO, rest: int) -> bool:
    """Tell whether the last `rest` bytes are another chunk (a title, markers) or padding, and not more samples."""
    file.seek(-rest, 2)
    start = file.read(8)
    if len(start) == 8:
        name, size = struct.unpack("<4sI", start)
        if all(32 <= byte < 127 for byte in name) and size <= rest:
            return True
    file.seek(-rest, 2)
    return not file.read(rest).strip(b"\0")
