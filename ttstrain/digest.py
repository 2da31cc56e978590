"""SHA-256 of bytes, texts and files: keys of caches, fingerprints, and the sums that tell whether a file is intact."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

_BLOCK = 1 << 20  # bytes read at a time


class Running(Protocol):
    """A sum that is fed piece by piece; a piece is anything that holds bytes."""

    def update(self, data: Any, /) -> None: ...
    def hexdigest(self) -> str: ...


def running() -> Running:
    """Begin a sum over pieces that come one after the other."""
    return hashlib.sha256()


def sha256(*pieces: Any) -> str:
    """Return the sum, hex, of texts (as UTF-8) and of anything that holds bytes, one after the other.

    A path's text may hold bytes that are no UTF-8 (Python's surrogate escapes); they count as they are on disk.
    """
    total = running()
    for piece in pieces:
        total.update(piece.encode("utf-8", "surrogateescape") if isinstance(piece, str) else piece)
    return total.hexdigest()


def sha256_of_each(texts: Sequence[str], *, after: str = "") -> list[bytes]:
    """Return the `sha256` of every text `after` another, as bytes."""
    new = functools.partial(hashlib.sha256, usedforsecurity=False)  # without a look at what is allowed: twice as fast
    encoded = (after + f"\n{after}".join(texts)).encode("utf-8", "surrogateescape").split(b"\n")
    if len(encoded) != len(texts):  # some hold line breaks, or there are none
        encoded = [(after + text).encode("utf-8", "surrogateescape") for text in texts]
    return [new(text).digest() for text in encoded]


def sha256_of_file(path: Path) -> str:
    """Return the sum, hex, of a file's content. Raises OSError."""
    return sha256_of_files([path])


def sha256_of_files(paths: Iterable[Path]) -> str:
    """Return the sum, hex, of the contents of files, one after the other. Raises OSError."""
    total = running()
    block = memoryview(bytearray(_BLOCK))
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(block):
                total.update(block[:count])
    return total.hexdigest()
