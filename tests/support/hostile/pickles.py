"""Edits of pickles by their opcodes, and of the zip round them, as `torch.save` writes both.

A pickle is taken apart into opcodes; some are removed, repeated, changed or put in between, among them calls that would
leave a mark if anything ran them.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable
from random import Random

from hostile.mutation import Edit, Edited, any_bytes, damaged_bytes, flip_one, one_of, places_of, plain_unless_cut

CANARY = "canary"  # file that code in a pickle would make in the present folder


def _text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def _call(module: str, name: str, *arguments: str) -> bytes:
    return f"c{module}\n{name}\n".encode() + b"(" + b"".join(map(_text, arguments)) + b"tR"


def _integer(number: int) -> bytes:
    data = pickle.encode_long(number)
    return b"\x8b" + struct.pack("<i", len(data)) + data


CALLS = (
    _call("os", "system", f"touch {CANARY}"),
    _call("posix", "system", f"touch {CANARY}"),
    _call("subprocess", "check_output", f"touch {CANARY}"),
    _call("builtins", "exec", f"open('{CANARY}', 'w')"),
    _call("builtins", "eval", f"open('{CANARY}', 'w')"),
    _call("builtins", "open", CANARY, "w"),
    _call("io", "open", CANARY, "w"),
    _call("pathlib", "Path.touch", CANARY),
    _call("hostile_canary", "touch"),
    _call("torch", "load", "other.pt"),
    _call("torch.hub", "load_state_dict_from_url", "http://127.0.0.1:9/x"),
    _call("builtins", "getattr", "x", "__class__"),
    _call("importlib", "import_module", "hostile_canary"),
    _text("os") + _text("system") + b"\x93" + _text(f"touch {CANARY}") + b"\x85R",
    f"(S'touch {CANARY}'\nios\nsystem\n".encode(),
)
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
STORAGE = b"((" + _text("storage") + b"ctorch\nFloatStorage\n" + _text("0") + _text("cpu") + b"K\x04tQ"


def _tensor(shape: list[int], strides: list[int], *, offset: int = 0) -> bytes:
    sizes = b"".join(b"(" + b"".join(map(_integer, numbers)) + b"t" for numbers in (shape, strides))
    return REBUILD + STORAGE + _integer(offset) + sizes + b"\x89}tR"


VALUES = (
    b"N",
    b"\x88",
    b"K\x00",
    _integer(-1),
    _integer(1 << 62),
    _integer(1 << 64),
    _integer(1 << 4000),
    b"G" + struct.pack(">d", float("nan")),
    b"G" + struct.pack(">d", float("inf")),
    _text(""),
    _text("../../x"),
    _text("\u202ex"),
    _text("a\0b"),
    _text("x" * 5000),
    _text("\ud800"),
    b"]",
    b"}",
    b")",
    b"\x8f",
    b"](" + b"N" * 2000 + b"e",
    b"(" * 3000 + b"t" * 3000,
    b"]" * 2000 + b"a" * 1999,
    b"})\x85\x85Ns",
    _tensor([1 << 40], [0]),
    _tensor([4], [1]),
    _tensor([2, 2], [2, 1], offset=1 << 62),
    _tensor([4], [1 << 61]),
    _tensor([-1], [1]),
    _tensor([0, 1 << 62], [1, 1]),
    _tensor([1] * 70, [1] * 70),
    b"ccollections\nOrderedDict\n)R",
    b"ccollections\nOrderedDict\n]R",
    b"cnumpy\ndtype\n(" + _text("O8") + b"\x89\x88tR",
    b"cfractions\nFraction\n(" + _text("1/0") + b"tR",
    b"cutils\nHParams\n)\x81}b",
    b"\x8c\x01q\x94h\x00",
    b"r\xff\xff\xff\x7f",
    b"2" * 50,
    *CALLS,
)


# ---------------------------------------------------------------- opcodes


def operations(content: bytes) -> list[bytes]:
    """Cut a healthy pickle into its opcodes with their arguments."""
    places = [place for _, _, place in pickletools.genops(content) if place is not None]
    end = places[-1] + 1
    return [content[one:two] for one, two in zip(places, [*places[1:], end], strict=True)]


def edit_pickle(rng: Random, content: bytes) -> Edited:
    """Edit one pickle, opcode by opcode."""
    try:
        found = operations(content)
    except (ValueError, IndexError):
        return any_bytes(rng, content)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        number = rng.randrange(len(found))
        how = rng.choice(_OPERATION_EDITS)(rng, found, number)
    return Edited(b"".join(found), f"opcode {number} of {len(found)}: {how}", plain=True)


def _insert(rng: Random, found: list[bytes], number: int) -> str:
    found.insert(number, rng.choice(VALUES))
    return "a value before it"


def _insert_and_drop(rng: Random, found: list[bytes], number: int) -> str:
    """Put in a value that is taken off the stack again: the rest stays valid."""
    found.insert(number, rng.choice(VALUES) + b"0")
    return "a value before it, taken off again"


def _in_place(rng: Random, found: list[bytes], number: int) -> str:
    values = [place for place, one in enumerate(found) if one[:1] in b"XKMJGNUC\x8c\x88\x89"]
    found[rng.choice(values) if values else number] = rng.choice(VALUES)
    return "another value"


def _number(rng: Random, found: list[bytes], number: int) -> str:
    """Change sizes: shapes, strides, offsets, numbers of elements."""
    places = [place for place, one in enumerate(found) if one[:1] in b"KMJ\x8a"]
    if places:
        sizes = (0, 1, 2, 3, 255, 65_535, 1 << 31, 1 << 40, 1 << 62, -1)
        found[rng.choice(places)] = _integer(rng.choice(sizes))
    return "another size"


def _name(rng: Random, found: list[bytes], number: int) -> str:
    """Change a name that is imported: a type of storage, a rebuild, a class."""
    places = [place for place, one in enumerate(found) if one[:1] == b"c"]
    if places:
        found[rng.choice(places)] = b"c" + rng.choice(_NAMES) + b"\n"
    return "another name"


def _key(rng: Random, found: list[bytes], number: int) -> str:
    """Change a text: mostly the name of a weight or of an entry."""
    places = [place for place, one in enumerate(found) if one[:1] == b"X"]
    if places:
        place = rng.choice(places)
        text = found[place][5:].decode("utf-8", "replace")
        found[place] = _text(rng.choice((text + "x", text[1:], text.upper(), "", "weight", "state", "\u202e" + text)))
    return "another text"


def _lose(rng: Random, found: list[bytes], number: int) -> str:
    del found[number]
    if not found:
        found.append(b".")
    return "removed"


def _repeat(rng: Random, found: list[bytes], number: int) -> str:
    found[number:number] = [found[number]] * rng.choice((1, 1, 50, 3000))
    return "repeated"


def _swap(rng: Random, found: list[bytes], number: int) -> str:
    other = rng.randrange(len(found))
    found[number], found[other] = found[other], found[number]
    return "swapped with another"


def _call_at_end(rng: Random, found: list[bytes], number: int) -> str:
    found[-1:] = [rng.choice(CALLS), b"."]
    return "a call at the end"


_NAMES = (
    b"torch\nHalfStorage",
    b"torch\nIntStorage",
    b"torch\nDoubleStorage",
    b"torch\nBoolStorage",
    b"torch\nSize",
    b"builtins\nset",
    b"os\nsystem",
    b"m\nf",
)
_OPERATION_EDITS: tuple[Callable[[Random, list[bytes], int], str], ...] = (
    *(_insert,) * 2,
    *(_insert_and_drop,) * 3,
    *(_in_place,) * 3,
    *(_number,) * 4,
    *(_name,) * 2,
    *(_key,) * 4,
    _lose,
    _repeat,
    _swap,
    _call_at_end,
)


# ---------------------------------------------------------------- the zip


def members(content: bytes) -> dict[str, bytes]:
    """Read all members of a healthy zip whose first two bytes may be another program's version."""
    with zipfile.ZipFile(io.BytesIO(b"PK" + content[2:])) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(named: list[tuple[str, bytes]], *, head: bytes = b"PK", compression: int = zipfile.ZIP_STORED) -> bytes:
    """Write members, also several of one name."""
    import warnings

    target = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that is there twice
        with zipfile.ZipFile(target, "w", compression) as archive:
            for name, data in named:
                archive.writestr(zipfile.ZipInfo(name), data, compress_type=compression)
    written = target.getvalue()
    return head + written[2:]


def edit_zip(rng: Random, content: bytes) -> Edited:
    """Edit what `torch.save` writes: its pickle, its members, its table of contents, its bytes."""
    return one_of(rng, content, _ZIP)


def _inside(rng: Random, content: bytes) -> Edited:
    """Edit the pickle; every checksum is right."""
    found = members(content)
    (name,) = [name for name in found if name.endswith("/data.pkl")]
    changed = edit_pickle(rng, found[name])
    return Edited(zipped(list({**found, name: changed.content}.items()), head=content[:2]), changed.how, plain=True)


def _of_members(rng: Random, content: bytes) -> Edited:
    named = list(members(content).items())
    number = rng.randrange(len(named))
    name, data = named[number]
    how = rng.choice(("outside", "twice", "removed", "renamed", "shorter", "longer", "bomb", "deflated", "code", "big"))
    compression = zipfile.ZIP_STORED
    if how == "outside":
        named.append((rng.choice(("../../outside", "/tmp/outside", "archive/../../x", "C:\\x", "a\0b")), b"x"))
    elif how == "twice":
        named.append((name, b"x" + data))
    elif how == "removed":
        del named[number]
    elif how == "renamed":
        named[number] = (rng.choice((f"../{name}", name.upper(), "data.pkl", "archive/data/99")), data)
    elif how == "shorter":
        named[number] = (name, data[: len(data) // 2])
    elif how == "longer":
        named[number] = (name, data + b"\0" * rng.choice((1, 4096)))
    elif how == "bomb":
        named.append(("archive/data/bomb", bytes(1 << 24)))
        compression = zipfile.ZIP_DEFLATED
    elif how == "deflated":
        compression = zipfile.ZIP_DEFLATED
    elif how == "code":
        named.append((f"{name.split('/')[0]}/code/x.py", b"open('canary', 'w')"))
    else:
        named.append((f"{name.split('/')[0]}/byteorder", b"big"))
    plain = how in ("outside", "longer")  # nothing uses those bytes
    return Edited(zipped(named, head=content[:2], compression=compression), f"member {name} {how}", plain=plain)


def _directory(rng: Random, content: bytes) -> Edited:
    """Change a field of the table of contents, or of its end."""
    changed = bytearray(content)
    start = content.find(b"PK\x01\x02")
    end = content.rfind(b"PK\x05\x06")
    if rng.random() < 0.3:
        place, form = end + rng.choice((4, 8, 10, 12, 16, 20)), "<H"
    else:
        entries = [at for at in places_of(content, b"PK\x01\x02") if at >= start]
        place, form = rng.choice(entries) + rng.choice((8, 10, 16, 20, 24, 28, 30, 32, 38, 42)), "<I"
    value = rng.choice((0, 1, 8, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)) & (0xFFFF if form == "<H" else 0xFFFFFFFF)
    struct.pack_into(form, changed, min(place, len(changed) - 4), value)
    return Edited(bytes(changed), f"table of contents: {value} at {place}")


def _data(rng: Random, content: bytes) -> Edited:
    """Flip a bit of a member's data; the checksum in the zip tells it."""
    end = content.find(b"PK\x01\x02")
    return Edited(flip_one(rng, content[:end]) + content[end:], "a bit of the data")


def _head(rng: Random, content: bytes) -> Edited:
    """Write another version into the first two bytes, as GPT-SoVITS' exports have it."""
    head = rng.choice(
        (b"00", b"01", b"02", b"03", b"04", b"05", b"06", b"07", b"99", b"\0\0", b"PK", b"pk", b"\x80\x02")
    )
    return Edited(head + content[2:], f"first bytes {head!r}", plain=True)


_ZIP: tuple[tuple[float, Edit], ...] = (
    (6, _inside),
    (3, _of_members),
    (3, _directory),
    (2, _data),
    (1, _head),
    (3, damaged_bytes),
)


def edit_bare(rng: Random, content: bytes) -> Edited:
    """Edit a file that is one pickle."""
    if rng.random() < 0.25:
        return plain_unless_cut(content, any_bytes(rng, content))
    return edit_pickle(rng, content)


def edit_legacy(rng: Random, content: bytes) -> Edited:
    """Edit a file of torch before 1.6: one of its five pickles, or its bytes."""
    bounds = [0]
    for _ in range(5):
        bounds.append(bounds[-1] + sum(map(len, operations(content[bounds[-1] :]))))
    if rng.random() < 0.3:
        changed = any_bytes(rng, content)
        in_pickles = changed.content[: bounds[-1]] != content[: bounds[-1]]
        return plain_unless_cut(content, changed) if in_pickles else changed
    number = rng.choice((0, 1, 2, 3, 3, 3, 3, 4))
    start, end = bounds[number], bounds[number + 1]
    changed = edit_pickle(rng, content[start:end])
    return Edited(content[:start] + changed.content + content[end:], f"pickle {number}: {changed.how}", plain=True)
