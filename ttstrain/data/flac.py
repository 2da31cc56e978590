"""Checks the samples of a FLAC file against the checksum in its header: a decoder passes over what is damaged.

Layout: RFC 9639. The first metadata block, STREAMINFO, ends with the MD5 of all samples as they were encoded, channels
interleaved, in little-endian integers of whole bytes. An encoder that streams leaves it zero.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from ttstrain.data.decode import Decoded

_BITS = {"PCM_S8": 8, "PCM_16": 16, "PCM_24": 24}
_MARK, _MD5_AT, _MD5_BYTES = b"fLaC", 26, 16  # bytes of the file before the checksum
_PIECE = 1 << 19  # frames that are converted at a time
_INFO_BITS_AT = 20  # byte whose low bit and successor's high half hold the bits of a sample, less one


def is_damaged(path: Path, decoded: Decoded) -> bool:
    """Tell whether a FLAC file's samples (t, c) are not those that were encoded; False where its header has no sum."""
    bits = _BITS.get(decoded.encoding)
    if decoded.container != "FLAC" or bits is None or not decoded.complete:
        return False
    with path.open("rb") as file:
        head = file.read(_MD5_AT + _MD5_BYTES)
    stated = head[_MD5_AT:]
    own_bits = ((head[_INFO_BITS_AT] & 1) << 4 | head[_INFO_BITS_AT + 1] >> 4) + 1 if len(head) > _MD5_AT else 0
    if not head.startswith(_MARK) or not any(stated) or own_bits != bits:
        return False
    summed = hashlib.md5(usedforsecurity=False)
    for start in range(0, len(decoded.samples), _PIECE):
        whole = np.rint(decoded.samples[start : start + _PIECE] * np.float64(1 << (bits - 1))).astype("<i4")
        summed.update(whole.view(np.uint8).reshape(*whole.shape, 4)[..., : bits // 8].tobytes())
    return summed.digest() != stated
