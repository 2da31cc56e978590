"""Edits of tar files: the fields of a member's header with a right checksum, the order of members, the bytes.

Layout: POSIX.1-2001, ustar. A header has a checksum, a member's content has none.
"""

from __future__ import annotations

from random import Random

from hostile.mutation import Edit, Edited, any_bytes, one_of, plain_unless_cut

BLOCK = 512
_FIELDS = {
    "name": (0, 100),
    "mode": (100, 8),
    "size": (124, 12),
    "type": (156, 1),
    "link": (157, 100),
    "magic": (257, 8),
}
_NUMBERS = (b"0", b"1", b"17", b"7777", b"77777777777", b"-1", b"\x80" + bytes(10) + b"\x05", b"\xff" * 12, b"8", b"")
_NAMES = (
    b"../../x.flac",
    b"/etc/x.flac",
    b"a\xff.flac",
    b".flac",
    b"b.flac",
    b"a.json",
    b"a.txt",
    b"a/",
    b"\0",
    b"x" * 100,
)


def edit_tar(rng: Random, content: bytes) -> Edited:
    """Edit a tar."""
    return one_of(rng, content, _TAR)


def members(content: bytes) -> list[tuple[bytes, bytes]]:
    """Return the header and the padded content of every member of a healthy tar."""
    found, at = [], 0
    while any(header := content[at : at + BLOCK]):
        size = int(header[124:135], 8)
        end = at + BLOCK + -(-size // BLOCK) * BLOCK
        found.append((header, content[at + BLOCK : end]))
        at = end
    return found


def _written(found: list[tuple[bytes, bytes]], *, end: int = 2) -> bytes:
    return b"".join(header + data for header, data in found) + bytes(end * BLOCK)


def _field(rng: Random, content: bytes) -> Edited:
    """Change one field of a header, and make its checksum right."""
    found = members(content)
    number = rng.randrange(len(found))
    field = rng.choice(("name", "size", "size", "type", "type", *_FIELDS))
    at, width = _FIELDS[field]
    if field in ("name", "link"):
        value = rng.choice(_NAMES)
    elif field == "type":
        value = bytes([rng.choice(b"0123456789gxLKSDMVX\0")])
    else:
        value = rng.choice(_NUMBERS)
    header = bytearray(found[number][0])
    header[at : at + width] = value[:width].ljust(width, b"\0")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    found[number] = bytes(header), found[number][1]
    return Edited(_written(found), f"{field} of member {number}: {value[:20]!r}", plain=True)


def _order(rng: Random, content: bytes) -> Edited:
    found = members(content)
    number = rng.randrange(len(found))
    how = rng.choice(("removed", "repeated", "swapped", "without an end", "one end in the middle"))
    if how == "removed":
        del found[number]
    elif how == "repeated":
        found.insert(rng.randrange(len(found)), found[number])
    elif how == "swapped":
        other = rng.randrange(len(found))
        found[number], found[other] = found[other], found[number]
    elif how == "without an end":
        return Edited(_written(found, end=0), "no end")
    else:
        found.insert(number, (bytes(BLOCK), b""))
    return Edited(_written(found), f"member {number} {how}", plain=True)


def _bytes(rng: Random, content: bytes) -> Edited:
    return plain_unless_cut(content, any_bytes(rng, content))


_TAR: tuple[tuple[float, Edit], ...] = ((3, _bytes), (5, _field), (2, _order))
