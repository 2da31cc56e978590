"""What a mutated file is, and edits that work on any bytes."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Literal

SIZES = (0, 1, 2, 7, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
LONG_SIZES = (*SIZES, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)


@dataclass(frozen=True, slots=True)
class Special:
    """Something in a file's place that is no ordinary file."""

    kind: Literal["folder", "pipe", "link"]
    target: str = ""  # of a link


Content = bytes | Special
Files = Mapping[str, Content]  # relative path -> content


@dataclass(frozen=True, slots=True)
class Edited:
    """The bytes of a file after one edit.

    `plain`: the result is a valid file that says something else, which nothing in it can tell from an original.
    """

    content: bytes
    how: str
    plain: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    """A folder of files of which some were changed."""

    files: Files
    how: str
    plain: bool
    sample: int = 0  # which of a reader's healthy samples it was made from


Edit = Callable[[Random, bytes], Edited]


def several(rng: Random, content: bytes, edit: Edit, *, most: int = 3) -> Edited:
    """Apply an edit once, or up to `most` times. What one plain edit changed, none of the others can tell."""
    count = 1 if rng.random() < 0.7 else rng.randint(2, most)
    result = edit(rng, content)
    for _ in range(count - 1):
        try:
            further = edit(rng, result.content)
        except Exception:  # of an edit that takes the format apart, which is broken by now
            break
        result = Edited(further.content, f"{result.how}; {further.how}", plain=result.plain or further.plain)
    return result


def one_of(rng: Random, content: bytes, edits: Sequence[tuple[float, Edit]]) -> Edited:
    """Apply one of several edits, chosen by weight."""
    (edit,) = rng.choices([edit for _, edit in edits], [weight for weight, _ in edits])
    return edit(rng, content)


# ---------------------------------------------------------------- edits of bytes


def flip(rng: Random, content: bytes) -> Edited:
    """Flip one bit to sixteen."""
    changed = bytearray(content)
    count = rng.choice((1, 1, 1, 2, 16))
    places = [rng.randrange(len(changed)) for _ in range(count)] if changed else []
    for place in places:
        changed[place] ^= 1 << rng.randrange(8)
    return Edited(bytes(changed), f"bits flipped at {places[:3]}", plain=True)


def overwrite_number(rng: Random, content: bytes) -> Edited:
    """Write a size that readers stumble over at an even place, mostly near the start, where headers are."""
    changed = bytearray(content)
    width, form = rng.choice(((1, "B"), (2, "<H"), (2, ">H"), (4, "<I"), (4, ">I"), (8, "<Q"), (8, ">Q")))
    if len(changed) < width:
        return Edited(content, "nothing to change", plain=True)
    end = min(len(changed), rng.choice((64, 256, len(changed)))) - width
    place = rng.randint(0, max(end, 0))
    value = rng.choice([size for size in LONG_SIZES if size < 1 << (8 * width)])
    struct.pack_into(form, changed, place, value)
    return Edited(bytes(changed), f"{value} over byte {place}", plain=True)


def cut(rng: Random, content: bytes) -> Edited:
    """Cut the file short."""
    end = rng.randrange(max(1, len(content)))
    if rng.random() < 0.3:
        end = max(0, len(content) - rng.randint(1, 16))
    return Edited(content[:end], f"cut at byte {end} of {len(content)}")


def lengthen(rng: Random, content: bytes) -> Edited:
    """Append zeros, noise or the file once more."""
    more = rng.choice((b"\0" * rng.choice((1, 7, 4096)), rng.randbytes(rng.choice((1, 9, 600))), content))
    return Edited(content + more, f"{len(more)} bytes appended")


def shift(rng: Random, content: bytes) -> Edited:
    """Remove, repeat or insert a piece in the middle, as a broken transfer does."""
    start = rng.randrange(max(1, len(content)))
    size = rng.choice((1, 2, 8, 512, max(1, len(content) // 3)))
    piece = content[start : start + size]
    kind = rng.choice(("removed", "repeated", "inserted"))
    middle = {"removed": b"", "repeated": piece * 2, "inserted": rng.randbytes(len(piece)) + piece}[kind]
    return Edited(content[:start] + middle + content[start + size :], f"{len(piece)} bytes {kind} at {start}")


def blank(rng: Random, content: bytes) -> Edited:
    """Zero a block: a sparse download, or a bad sector."""
    start = rng.randrange(max(1, len(content)))
    size = rng.choice((16, 512, 4096, len(content)))
    piece = content[start : start + size]
    return Edited(content[:start] + bytes(len(piece)) + content[start + size :], f"{len(piece)} zeros at {start}", True)


BYTES: tuple[tuple[float, Edit], ...] = (
    (4, flip),
    (3, overwrite_number),
    (3, cut),
    (1, lengthen),
    (2, shift),
    (1, blank),
)


def any_bytes(rng: Random, content: bytes) -> Edited:
    """Apply one edit of bytes."""
    return one_of(rng, content, BYTES)


def plain_bytes(rng: Random, content: bytes) -> Edited:
    """Apply one edit of bytes to a file of a format that nothing tells from another valid file."""
    return replace(any_bytes(rng, content), plain=True)


def damaged_bytes(rng: Random, content: bytes) -> Edited:
    """Apply one edit of bytes to a file of a format that tells each of them, such as by checksums."""
    return replace(any_bytes(rng, content), plain=False)


def plain_unless_cut(content: bytes, changed: Edited) -> Edited:
    """Call a change plain unless it is a cut: all that a format without checksums tells is that it has an end."""
    return replace(changed, plain=not content.startswith(changed.content))


def flip_one(rng: Random, content: bytes) -> bytes:
    """Flip one bit."""
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def places_of(content: bytes, mark: bytes) -> list[int]:
    """Return where a mark stands, overlapping ones included."""
    places, at = [], content.find(mark)
    while at >= 0:
        places.append(at)
        at = content.find(mark, at + 1)
    return places


# ---------------------------------------------------------------- something else in the file's place

OTHERS: Mapping[str, Content] = {
    "an empty file": b"",
    "a kilobyte of zeros": bytes(1024),
    "a web page": b"<!DOCTYPE html><html><body>404 not found</body></html>\n",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n",
    "a gzip file": b"\x1f\x8b\x08\x00" + bytes(range(200)),
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    "a zip without members": b"PK\x05\x06" + bytes(18),
    "noise": Random(5).randbytes(3000),
    "a folder": Special("folder"),
    "a pipe": Special("pipe"),
    "a link to itself": Special("link", "."),
    "a link to nothing": Special("link", "nowhere/at/all"),
    "an endless device": Special("link", "/dev/zero"),
    "an empty device": Special("link", "/dev/null"),
    "a file of the system without a size": Special("link", "/proc/self/maps"),
}


NOTHING = "nothing"
NO_FILE = frozenset((NOTHING, *(how for how, content in OTHERS.items() if isinstance(content, Special))))
"""What stands in the place of a file that may be missing, and is no file either."""


NO_LINE = frozenset(how for how, content in OTHERS.items() if isinstance(content, bytes) and b"\n" not in content)
"""What stands in the place of lines and holds none: all of it may be a last line that was torn."""


def in_its_place(rng: Random, files: Files, target: str, *, allowed: Collection[str] = ()) -> Case:
    """Put something else in the place of a file, or take the file away; those `allowed` are valid there."""
    how = rng.choice([*OTHERS, NOTHING])
    plain = how in allowed
    if how == NOTHING:
        return Case({name: content for name, content in files.items() if name != target}, f"no {target}", plain=plain)
    content = OTHERS[how]
    if content == Special("link", "."):
        content = Special("link", Path(target).name)
    return Case({**files, target: content}, f"{how} for {target}", plain=plain)


def write_files(folder: Path, files: Files) -> None:
    """Write a case's files into a new folder."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content.kind == "folder":
            path.mkdir()
        elif content.kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to(content.target)
