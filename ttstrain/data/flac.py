"""Checks a FLAC file's samples against the checksum in its header, and its rates: decoders pass over what is damaged.

Layout: RFC 9639. The first metadata block, STREAMINFO, ends with the MD5 of all samples as they were encoded, channels
interleaved, in little-endian integers of whole bytes. An encoder that streams leaves it zero.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from ttstrain.data.decode import Decoded, Samples
from ttstrain.data.shards import opened

_BITS = {"PCM_S8": 8, "PCM_16": 16, "PCM_24": 24}
_MARK, _MD5_AT, _MD5_BYTES = b"fLaC", 26, 16  # bytes of the file before the checksum
_PIECE = 1 << 19  # frames that are converted at a time
_INFO_RATE_AT = 18  # byte with the highest of the rate's 20 bits
_INFO_BITS_AT = 20  # byte whose low bit and successor's high half hold the bits of a sample, less one
_LAST, _BLOCK_HEAD = 0x80, 4  # mark of the last metadata block; bytes of a block before its content
_FRAME_HEAD = 16  # bytes of the longest header of a frame
# Rates by their code in a frame's header. 0 refers to STREAMINFO; 12 to 14: it follows, in kHz, Hz or tens of Hz.
_RATES = {
    1: 88_200,
    2: 176_400,
    3: 192_000,
    4: 8_000,
    5: 16_000,
    6: 22_050,
    7: 24_000,
    8: 32_000,
    9: 44_100,
    10: 48_000,
    11: 96_000,
}


def contradiction(path: Path) -> str | None:
    """Say where the rate in a FLAC file's header is not that of its first frame; None for any other kind of file."""
    with opened(path) as file:
        head = file.read(_MD5_AT)
        if not head.startswith(_MARK) or len(head) < _MD5_AT:
            return None
        at, last = len(_MARK), False
        while not last:
            file.seek(at)
            block = file.read(_BLOCK_HEAD)
            if len(block) < _BLOCK_HEAD:
                return None
            at, last = at + _BLOCK_HEAD + int.from_bytes(block[1:], "big"), block[0] & _LAST != 0
        file.seek(at)
        of_frame = _rate(file.read(_FRAME_HEAD))
    stated = int.from_bytes(head[_INFO_RATE_AT : _INFO_RATE_AT + 3], "big") >> 4
    if of_frame is None or of_frame == stated:
        return None
    return f"its header states {stated:,} samples a second, its first frame {of_frame:,}"


def _rate(frame: bytes) -> int | None:
    """Return the rate, in Hz, that a frame's header states; None where it states none, or is no header."""
    if len(frame) < _FRAME_HEAD or frame[0] != 0xFF or frame[1] & 0xFC != 0xF8:
        return None
    size, code = frame[2] >> 4, frame[2] & 0x0F
    number = max(1, 8 - (frame[4] ^ 0xFF).bit_length())  # bytes of the frame's number, coded as UTF-8 is
    at = 4 + number + {6: 1, 7: 2}.get(size, 0)
    if code == 12:
        return 1_000 * frame[at]
    if code in (13, 14):
        return (1 if code == 13 else 10) * int.from_bytes(frame[at : at + 2], "big")
    return _RATES.get(code)


class RunningSum:
    """The checksum of samples that are decoded piece by piece, in order, beside the one in the file's header."""

    def __init__(self, stated: bytes, bits: int) -> None:
        self._stated, self._bits = stated, bits
        self._summed = hashlib.md5(usedforsecurity=False)

    def add(self, samples: Samples) -> None:
        """Add decoded samples (t, c) in [-1, 1]."""
        whole = np.rint(samples * np.float64(1 << (self._bits - 1))).astype("<i4")
        self._summed.update(whole.view(np.uint8).reshape(*whole.shape, 4)[..., : self._bits // 8].tobytes())

    @property
    def differs(self) -> bool:
        return self._summed.digest() != self._stated


def running_sum(path: Path, *, container: str, encoding: str) -> RunningSum | None:
    """Return a sum to add a file's samples to; None where it is no FLAC, or its encoder left the checksum out."""
    bits = _BITS.get(encoding)
    if container != "FLAC" or bits is None:
        return None
    with opened(path) as file:
        head = file.read(_MD5_AT + _MD5_BYTES)
    stated = head[_MD5_AT:]
    own_bits = ((head[_INFO_BITS_AT] & 1) << 4 | head[_INFO_BITS_AT + 1] >> 4) + 1 if len(head) > _MD5_AT else 0
    return RunningSum(stated, bits) if head.startswith(_MARK) and any(stated) and own_bits == bits else None


def is_damaged(path: Path, decoded: Decoded) -> bool:
    """Tell whether a FLAC file's samples (t, c) are not those that were encoded; False where its header has no sum."""
    own = running_sum(path, container=decoded.container, encoding=decoded.encoding) if decoded.complete else None
    if own is None:
        return False
    for start in range(0, len(decoded.samples), _PIECE):
        own.add(decoded.samples[start : start + _PIECE])
    return own.differs
