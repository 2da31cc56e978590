"""Edits of sound files that know their containers: chunks of wav, blocks of flac, pages of ogg, frames of mp3.

Layouts: Microsoft's RIFF of 1991; RFC 9639 (FLAC); RFC 3533 (Ogg); ISO 11172-3 and ID3v2.4 (MP3).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from hostile.mutation import SIZES, Edit, Edited, any_bytes, damaged_bytes, flip_one, one_of, places_of, plain_bytes

_RATES = (0, 1, 100, 7_999, 11_025, 16_001, 44_100, 192_000, 1_000_000, 0x7FFFFFFF, 0xFFFFFFFF)


# ---------------------------------------------------------------- wav


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk; `claimed` is the size that its header states."""

    name: bytes
    claimed: int
    body: bytes

    def written(self) -> bytes:
        """Write the chunk, with a byte of padding where its length is odd; a body that was cut short stays so."""
        padding = b"\0" * (len(self.body) % 2) if len(self.body) >= self.claimed else b""
        return self.name + struct.pack("<I", self.claimed) + self.body + padding


def chunks(content: bytes) -> list[Chunk]:
    """Read the chunks of a healthy wav."""
    found, at = [], 12
    while at + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, at)
        found.append(Chunk(name, size, content[at + 8 : at + 8 + size]))
        at += 8 + size + size % 2
    return found


def edit_wav(rng: Random, content: bytes) -> Edited:
    """Edit the header, the format, the order of chunks or the bytes of a wav."""
    return one_of(rng, content, _WAV)


def _wav_of(found: list[Chunk], *, size: int | None = None) -> bytes:
    body = b"WAVE" + b"".join(chunk.written() for chunk in found)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


def _wav_sizes(rng: Random, content: bytes) -> Edited:
    found = chunks(content)
    number = rng.randrange(-1, len(found))
    size = rng.choice((*SIZES, len(content), len(content) * 2, len(content) - 9))
    if number < 0:
        return Edited(_wav_of(found, size=size), f"RIFF size {size}", plain=True)  # readers go by the chunks
    found[number] = Chunk(found[number].name, size, found[number].body)
    return Edited(_wav_of(found), f"size of {found[number].name!r} {size}")


def _wav_format(rng: Random, content: bytes) -> Edited:
    """Change one field: it then contradicts the others."""
    found = chunks(content)
    number = next(i for i, chunk in enumerate(found) if chunk.name == b"fmt ")
    body = bytearray(found[number].body)
    offset, form = rng.choice(((0, "<H"), (2, "<H"), (4, "<I"), (8, "<I"), (12, "<H"), (14, "<H")))
    values = _RATES if form == "<I" else (0, 1, 2, 3, 6, 8, 16, 17, 24, 32, 64, 0x55, 1024, 0xFFFE, 0xFFFF)
    value = rng.choice(values)
    struct.pack_into(form, body, offset, value)
    changed = bytes(body) != found[number].body
    found[number] = Chunk(b"fmt ", len(body), bytes(body))
    return Edited(_wav_of(found), f"field {offset} of the format {value}", plain=not changed)


def _wav_chunks(rng: Random, content: bytes) -> Edited:
    found = chunks(content)
    how = rng.choice(("removed", "twice", "swapped", "renamed", "added", "many", "in a list"))
    number = rng.randrange(len(found))
    chunk = found[number]
    if how == "removed":
        del found[number]
    elif how == "twice":
        found.insert(rng.randrange(len(found)), chunk)
    elif how == "swapped":
        found.reverse()
    elif how == "renamed":
        found[number] = Chunk(rng.choice((b"DATA", b"Fmt ", b"LIST", b"\0\0\0\0", b"data")), chunk.claimed, chunk.body)
    elif how == "many":
        found[1:1] = [Chunk(b"junk", 0, b"")] * 20_000
    elif how == "in a list":
        found[number] = Chunk(b"LIST", chunk.claimed + 12, b"wavl" + chunk.written())
    else:
        body = rng.randbytes(rng.choice((1, 30, 3000)))
        name = rng.choice((b"LIST", b"bext", b"cue ", b"smpl", b"fact", b"ds64", b"PEAK", b"id3 ", b"JUNK"))
        found.insert(rng.randint(0, len(found)), Chunk(name, rng.choice((len(body), *SIZES)), body))
    return Edited(_wav_of(found), f"chunk {chunk.name!r} {how}", plain=how in ("added", "many"))


_WAV: tuple[tuple[float, Edit], ...] = ((3, any_bytes), (3, _wav_sizes), (3, _wav_format), (3, _wav_chunks))


# ---------------------------------------------------------------- flac


def edit_flac(rng: Random, content: bytes) -> Edited:
    """Edit metadata blocks and frames; FLAC has a checksum for each frame and one for all samples."""
    return one_of(rng, content, _FLAC)


def _flac_blocks(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (start, type, size) of each metadata block."""
    at = 4
    while at + 4 <= len(content):
        head = content[at]
        size = int.from_bytes(content[at + 1 : at + 4], "big")
        yield at, head & 0x7F, size
        at += 4 + size
        if head & 0x80:
            return


def _flac_info(rng: Random, content: bytes) -> Edited:
    """Change a field of STREAMINFO: block and frame sizes, rate, channels, bits, number of samples, checksum.

    A checksum of zero is a valid one: the encoder left it out.
    """
    changed = bytearray(content)
    start = 8
    field = rng.choice(("block sizes", "frame sizes", "rate", "channels and bits", "samples", "checksum"))
    packed = int.from_bytes(changed[start + 10 : start + 18], "big")
    if field == "block sizes":
        struct.pack_into(">HH", changed, start, rng.choice(SIZES) & 0xFFFF, rng.choice(SIZES) & 0xFFFF)
    elif field == "frame sizes":
        changed[start + 4 : start + 10] = rng.randbytes(6)
    elif field == "checksum":
        changed[start + 18 : start + 34] = rng.choice((bytes(16), rng.randbytes(16)))
    else:
        if field == "rate":
            packed = packed & ((1 << 44) - 1) | (rng.choice(_RATES) & 0xFFFFF) << 44
        elif field == "channels and bits":
            packed = packed & ~(0xFF << 36) | rng.randrange(256) << 36
        else:
            packed = packed & ~((1 << 36) - 1) | rng.choice((0, 1, 4_000, 1 << 20, (1 << 36) - 1))
        changed[start + 10 : start + 18] = packed.to_bytes(8, "big")
    return Edited(bytes(changed), f"STREAMINFO: {field}", plain=not any(changed[start + 18 : start + 34]))


def _flac_metadata(rng: Random, content: bytes) -> Edited:
    blocks = list(_flac_blocks(content))
    at, _, size = rng.choice(blocks)
    changed = bytearray(content)
    how = rng.choice(("size", "type", "removed", "added"))
    if how == "size":
        changed[at + 1 : at + 4] = rng.choice((0, 1, size + 1, size - 1, 0xFFFFFF)).to_bytes(3, "big", signed=False)
    elif how == "type":
        changed[at] = changed[at] & 0x80 | rng.randrange(128)
    elif how == "removed":
        del changed[at : at + 4 + size]
    else:
        body = rng.randbytes(rng.choice((0, 40, 5000)))
        changed[blocks[0][0] + 38 : blocks[0][0] + 38] = (
            bytes([rng.choice((1, 2, 3, 4, 5, 6))]) + len(body).to_bytes(3, "big") + body
        )
    return Edited(bytes(changed), f"metadata block at {at}: {how}")


def _flac_frames(rng: Random, content: bytes) -> Edited:
    """Flip, remove or swap frames as they lie between two synchronisation codes."""
    starts = places_of(content, b"\xff\xf8")
    if len(starts) < 3:
        return any_bytes(rng, content)
    number = rng.randrange(len(starts) - 1)
    one, two = starts[number], starts[number + 1]
    how = rng.choice(("removed", "repeated", "zeroed", "flipped"))
    frame = content[one:two]
    if how == "flipped":
        frame = flip_one(rng, frame)
    else:
        frame = {"removed": b"", "repeated": frame * 2, "zeroed": bytes(len(frame))}[how]
    return Edited(content[:one] + frame + content[two:], f"frame {number} {how}")


_FLAC: tuple[tuple[float, Edit], ...] = ((3, damaged_bytes), (3, _flac_info), (2, _flac_metadata), (3, _flac_frames))


# ---------------------------------------------------------------- ogg


def edit_ogg(rng: Random, content: bytes) -> Edited:
    """Edit pages: damaged ones, lost ones, and ones with a right checksum over a wrong header."""
    return one_of(rng, content, _OGG)


def pages(content: bytes) -> list[bytes]:
    """Split a healthy ogg file into its pages."""
    starts = [at for at in places_of(content, b"OggS") if content[at + 4] == 0]
    return [content[one:two] for one, two in zip(starts, [*starts[1:], len(content)], strict=True)]


def _ogg_pages(rng: Random, content: bytes) -> Edited:
    found = pages(content)
    number = rng.randrange(len(found))
    how = rng.choice(("removed", "repeated", "swapped", "flipped", "zeroed"))
    page = found[number]
    if how == "removed":
        del found[number]
    elif how == "repeated":
        found.insert(number, page)
    elif how == "swapped":
        other = rng.randrange(len(found))
        found[number], found[other] = found[other], found[number]
    elif how == "zeroed":
        found[number] = bytes(len(page))
    else:
        found[number] = flip_one(rng, page)
    return Edited(b"".join(found), f"page {number} of {len(found)} {how}")


def _ogg_header(rng: Random, content: bytes) -> Edited:
    """Change a page's header and make its checksum right again."""
    found = pages(content)
    number = rng.randrange(len(found))
    page = bytearray(found[number])
    field = rng.choice(("version", "flags", "granule", "serial", "sequence", "segments", "body"))
    if field == "version":
        page[4] = rng.randrange(256)
    elif field == "flags":
        page[5] = rng.randrange(8)
    elif field == "granule":
        struct.pack_into("<q", page, 6, rng.choice((-1, 0, 1, 1 << 40, (1 << 63) - 1, -(1 << 62))))
    elif field in ("serial", "sequence"):
        struct.pack_into("<I", page, 14 if field == "serial" else 18, rng.choice(SIZES))
    elif field == "segments":
        page[26] = rng.randrange(256)
    else:
        place = rng.randrange(27, len(page))
        page[place] = rng.randrange(256)
    struct.pack_into("<I", page, 22, 0)
    struct.pack_into("<I", page, 22, _ogg_checksum(bytes(page)))
    found[number] = bytes(page)
    return Edited(b"".join(found), f"page {number}: {field}, with a right checksum", plain=True)


def _ogg_checksum(page: bytes) -> int:
    """Compute RFC 3533's checksum: polynomial 0x04c11db7, neither reflected nor inverted."""
    crc = 0
    for byte in page:
        crc = (crc << 8) & 0xFFFFFFFF ^ _OGG_TABLE[(crc >> 24) ^ byte]
    return crc


def _ogg_row(value: int) -> int:
    value <<= 24
    for _ in range(8):
        value = (value << 1) ^ 0x04C11DB7 if value & 0x80000000 else value << 1
    return value & 0xFFFFFFFF


_OGG_TABLE = [_ogg_row(byte) for byte in range(256)]
_OGG: tuple[tuple[float, Edit], ...] = ((3, damaged_bytes), (4, _ogg_pages), (3, _ogg_header))


# ---------------------------------------------------------------- mp3


def edit_mp3(rng: Random, content: bytes) -> Edited:
    """Edit frame headers and the tag in front; nothing in an mp3 tells that it was changed."""
    return one_of(rng, content, _MP3)


def _mp3_frames(rng: Random, content: bytes) -> Edited:
    starts = [at for at in places_of(content, b"\xff") if at + 4 < len(content) and content[at + 1] & 0xE0 == 0xE0]
    if not starts:
        return any_bytes(rng, content)
    changed = bytearray(content)
    for at in rng.sample(starts, min(len(starts), rng.choice((1, 1, 3)))):
        changed[at + rng.choice((1, 2, 3))] = rng.randrange(256)
    return Edited(bytes(changed), "frame headers", plain=True)


def _mp3_tag(rng: Random, content: bytes) -> Edited:
    body = rng.choice((b"", rng.randbytes(64), b"TIT2" + struct.pack(">I", rng.choice(SIZES)) + b"\0\0\3x"))
    size = rng.choice((len(body), 0, 0x0FFFFFFF, len(content)))
    synchsafe = bytes((size >> shift) & 0x7F for shift in (21, 14, 7, 0))
    head = b"ID3" + bytes([rng.choice((2, 3, 4, 255)), 0, rng.choice((0, 0x40, 0x80, 0xFF))]) + synchsafe
    return Edited(head + body + content, f"a tag of {size} bytes in front", plain=True)


def _mp3_end(rng: Random, content: bytes) -> Edited:
    return Edited(content + b"TAG" + rng.randbytes(rng.choice((1, 125))), "a tag at the end", plain=True)


_MP3: tuple[tuple[float, Edit], ...] = ((4, plain_bytes), (4, _mp3_frames), (2, _mp3_tag), (1, _mp3_end))
