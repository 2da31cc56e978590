"""Pickles made to hang, crash or swell their reader: each is refused, or read, within a second and a little memory."""

from __future__ import annotations

import contextlib
import copyreg
import io
import pickle
import resource
import struct
import sys
import time
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from ttstrain.checkpoint.inspect import inspect
from ttstrain.errors import CheckpointError, UserError
from ttstrain.tensors import pickle_limits, tensorfile, unpickle
from ttstrain.tensors.contents import read_contents

SECONDS = 20  # far above what any of these takes on a busy machine, far below what they were made for
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
FLOATS = b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"  # 4 of them


def view(shape: list[int], strides: list[int], *, storage: bytes = FLOATS) -> bytes:
    """Spell a tensor over the storage `0`."""
    sizes = b"".join(b"(" + b"".join(map(long, numbers)) + b"t" for numbers in (shape, strides))
    return REBUILD + storage + b"K\x00" + sizes + b"\x89}tR"


def long(number: int) -> bytes:
    data = pickle.encode_long(number)
    return b"\x8b" + struct.pack("<i", len(data)) + data


def zipped(path: Path, content: bytes) -> Path:
    """Write a file as `torch.save` does, with one storage of four floats."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + content + b".")
        archive.writestr("archive/data/0", struct.pack("<4f", 1, 2, 3, 4))
    return path


def many(count: int, piece: Callable[[int], bytes]) -> bytes:
    return b"".join(map(piece, range(count)))


def nested(depth: int, leaf: bytes) -> bytes:
    """Spell {'a': {'a': ... leaf}}, each dict with a tensor beside the next."""
    opened = b"}X\x01\x00\x00\x00tq\x00" + view([4], [1]) + b"sX\x01\x00\x00\x00a"
    return opened * depth + leaf + b"s" * depth


def colliding(count: int) -> list[tuple[int, int]]:
    """Make pairs of numbers whose tuples have one hash: CPython hashes tuples by xxHash's rounds, without a secret."""
    bits = (1 << 64) - 1
    prime_1, prime_2, prime_5 = 11400714785074694791, 14029467366897019727, 2870177450012600261
    wanted = 4_004_004_004 * pow(prime_1, -1, 1 << 64) & bits
    wanted = (wanted >> 31 | wanted << 33) & bits  # the second round's rotation, undone
    made: list[tuple[int, int]] = []
    first = 0
    while len(made) < count:
        first += 1
        sum_1 = (prime_5 + first * prime_2) & bits
        round_1 = ((sum_1 << 31 | sum_1 >> 33) * prime_1) & bits
        second = (wanted - round_1) * pow(prime_2, -1, 1 << 64) & bits
        if second < (1 << 61) - 1:  # such a number is its own hash
            made.append((first, second))
    return made


CALL = b"ctorch._tensor\n_rebuild_from_type_v2\n"
HOSTILE: dict[str, bytes] = {
    "a tuple that holds itself": b"]q\x00h\x00\x85q\x01ah\x01",
    "a dict that holds itself": b"}q\x00X\x01\x00\x00\x00ah\x00s",
    "pairs that double each other": b"N" + b"2\x86" * 90,
    "calls in calls": CALL + b"(" + (CALL + b"N(") * 5000 + b"t" * 5000 + b"tR",
    "rebuilds of rebuilds": b"(" + CALL * 5000 + b"tR",
    "a class that is a deep record": (b"cm\nf\n(" * 3000) + b"tR" * 3000,
    "a record rebuilt from records": b"ccopyreg\n_reconstructor\n(cm\nf\n)Rq\x00h\x00h\x00tR",
    "20,000 nested tensors": nested(20_000, b"N"),
    "a view without strides": b"}X\x01\x00\x00\x00a" + view([1 << 40], [0]) + b"s",
    "an empty tensor of immense size": b"}X\x01\x00\x00\x00a" + view([0, 1 << 62, 1 << 62], [1, 1, 1]) + b"s",
    "a negative size": b"}X\x01\x00\x00\x00a" + view([-4], [1]) + b"s",
    "a size of a million bits": b"}X\x01\x00\x00\x00a" + view([1 << 1_000_000], [0]) + b"s",
    "a thousand views": b"}(" + many(1000, lambda n: b"M" + struct.pack("<H", n) + view([1 << 20], [0])) + b"u",
    "a shape of a million sizes": b"}X\x01\x00\x00\x00a"
    + REBUILD
    + FLOATS
    + b"K\x00(("
    + b"K\x01" * 1_000_000
    + b"tt"
    + b"tR"
    + b"s",
    "keys that collide": b"}(" + many(40_000, lambda n: long(n * (2**61 - 1)) + b"N") + b"u",
    "pairs as keys that collide": b"}(" + b"".join(long(a) + long(b) + b"\x86N" for a, b in colliding(200_000)) + b"u",
    "a key of nested tuples": b"})" + b"\x85" * 400_000 + b"Ns",
    "an immense place in the memo": b"Nr" + struct.pack("<I", (1 << 32) - 1),
    "an immense place in the memo, as text": b"Np999999999999999999\n",
    "an immense key": b"}" + long(1 << 100_000) + b"Ns",
    "a key that is a deep record": b"}" + b"cm\nf\n(" * 3000 + b"tR" * 3000 + b"Ns",
    "a name of a megabyte": b"c" + b"m" * 1_000_000 + b"\nf\n",
    "sets that copy a long list": b"](" + b"N" * 100_000 + b"eq\x00" + b"cbuiltins\nset\nh\x00\x85R0" * 100_000,
    "arguments that repeat": b"(" + b"N" * 100_000 + b"tq\x00" + b"ccollections\nOrderedDict\nh\x00R0" * 100_000,
    "a text that never ends": b"V" + b"x" * 100_000,
    "a persistent name of records": b"cm\nf\n(" * 3000 + b"tR" * 3000 + b"Q",
    "an iterator without an end": b"ccollections\nOrderedDict\nX\x03\x00\x00\x00abc\x85R",
}


@pytest.fixture
def bounded() -> Iterator[None]:
    """Fail, and do not swell, where a reader asks for memory: two gigabytes above what is used now."""
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30), before[1]))
    started = time.monotonic()
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.monotonic() - started < SECONDS


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("layout", ["zip", "bare"])
def test_it_ends_soon_with_an_error_or_without(content: bytes, layout: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    if layout == "zip":
        zipped(path, content)
    else:
        path.write_bytes(b"\x80\x02" + content + b".")
    try:
        found = inspect(path)
    except UserError as error:
        assert error.exit_code == 4
        assert len(error.message) < 600
    else:
        assert all(len(line) < 5000 for line in [*found.notes, *found.nonfinite, *found.zero])


def test_honest_files_stay_within_the_limits(tmp_path: Path) -> None:
    shared = torch.ones(10)
    content = {
        "tied": {f"layer.{number}": shared for number in range(200)},
        "grown": torch.ones(1).expand(4000),
        "number": 2**500,
        "nest": {},
    }
    content["pairs"] = {(row, column): row for row in range(60) for column in range(60)}
    for _ in range(60):
        content = {"inside": content}
    torch.save(content, tmp_path / "x.pt")
    assert len(list(unpickle.walk(unpickle.read(tmp_path / "x.pt").tree))) == 3802


def test_the_pairs_do_collide() -> None:
    assert len({hash(pair) for pair in colliding(100)}) == 1


FOREIGN: dict[str, bytes] = {
    "a class": b"cforeign\nThing\n",
    "a class of a module that is not there": b"cabsent.inner\nThing\n",
    "a name from the stack": b"\x8c\x07foreign\x8c\x05Thing\x93",
    "a name within a name": b"\x8c\x07foreign\x8c\x0dThing.__init__\x93",
    "a call": b"cforeign\nThing\n(K\x01tR",
    "an instance, as of old": b"(K\x01iforeign\nThing\n",
    "an object, as of old": b"(cforeign\nThing\nK\x01o",
    "a new object": b"cforeign\nThing\n)\x81",
    "a new object with keywords": b"cforeign\nThing\n)}\x92",
    "an object with a state": b"cforeign\nThing\n)\x81}X\x01\x00\x00\x00aK\x01sb",
    "a reconstruction": b"ccopyreg\n_reconstructor\n(cforeign\nThing\ncforeign\nBase\nNtR",
    "a rebuild": CALL + b"(cforeign\nthing\ncforeign\nThing\n)NtR",
    "a factory": b"ccollections\ndefaultdict\ncforeign\nThing\n\x85R",
    "a storage": REBUILD + b"((X\x07\x00\x00\x00storagecforeign\nThing\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ",
    "an extension": b"\x82\x01",
}


class Alarm(types.ModuleType):
    """A module that tells when anything of it is looked up."""

    def __init__(self, looked_up: list[str]) -> None:
        super().__init__("foreign")
        self.__dict__["looked_up"] = looked_up

    def __getattribute__(self, name: str) -> object:
        if name.lower() in ("thing", "base", "thing.__init__"):
            object.__getattribute__(self, "looked_up").append(name)
        return super().__getattribute__(name)


class Watch:
    """An import hook that finds nothing and tells what was looked for."""

    def __init__(self, looked_up: list[str]) -> None:
        self.looked_up = looked_up

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        self.looked_up.append(name)


def test_the_alarms_ring_for_the_unpickler_of_python(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[str] = []
    monkeypatch.setitem(sys.modules, "foreign", Alarm(looked_up))
    monkeypatch.setattr(sys, "meta_path", [Watch(looked_up), *sys.meta_path])
    for name in ("a class", "a class of a module that is not there"):
        with contextlib.suppress(AttributeError, ImportError):
            pickle.loads(b"\x80\x04" + FOREIGN[name] + b".")
    assert looked_up == ["Thing", "absent"]


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("layout", ["zip", "bare"])
def test_nothing_that_a_pickle_names_is_ever_looked_up(
    content: bytes, layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.pt"
    if layout == "zip":
        zipped(path, content)
    else:
        path.write_bytes(b"\x80\x04" + content + b".")
    torch.save({"a": torch.ones(1)}, tmp_path / "other.pt")
    inspect(tmp_path / "other.pt")  # imports what inspecting needs
    looked_up: list[str] = []
    monkeypatch.setitem(sys.modules, "foreign", Alarm(looked_up))
    monkeypatch.setitem(copyreg._inverted_registry, 1, ("foreign", "Thing"))  # type: ignore[attr-defined]
    monkeypatch.setattr(sys, "meta_path", [Watch(looked_up), *sys.meta_path])
    unpickle.scan_globals(path)
    with contextlib.suppress(CheckpointError):
        unpickle.read(path)
    with contextlib.suppress(UserError):
        inspect(path)
    assert looked_up == []


@pytest.mark.parametrize("opcode", [b"]", b"}", b"\x8f", b")", b"2"])
def test_a_file_of_small_objects_is_given_up_on(opcode: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_limits, "MOST_OPERATIONS", 20_000)
    (tmp_path / "x.pt").write_bytes(b"\x80\x04N" + opcode * 30_000 + b".")
    with pytest.raises(CheckpointError, match="more operations than any checkpoint"):
        unpickle.read(tmp_path / "x.pt")


def test_one_value_of_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    for number, start in enumerate((b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40), b"\x80\x02V")):
        path = tmp_path / f"{number}.pt"
        with path.open("wb") as file:
            file.write(start)
            file.truncate(1 << 40)
        started = time.monotonic()
        with pytest.raises(CheckpointError):
            read_contents(path)
        assert time.monotonic() - started < SECONDS


def test_a_zip_that_claims_an_endless_table_of_contents_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.pt", b"}")
    data = bytearray(path.read_bytes())
    end = data.rindex(b"PK\x05\x06")
    data[end + 12 : end + 16] = struct.pack("<I", 0xFFFF_FF00)  # size of the table
    with path.open("wb") as file:
        file.seek(1 << 33)
        file.write(data)
    with pytest.raises(CheckpointError):
        read_contents(path)


@pytest.mark.parametrize("place", [0, 1, 2, 4])
def test_every_pickle_of_an_old_file_counts(place: int, tmp_path: Path) -> None:
    """Magic number, version, system information, content, keys: who loads the file obeys all five."""
    stream = io.BytesIO()
    torch.save({"a": torch.ones(2)}, stream, _use_new_zipfile_serialization=False)
    data = stream.getvalue()
    stream.seek(0)
    ends = [0]
    for _ in range(3):
        pickle.load(stream)
        ends.append(stream.tell())
    content = io.BytesIO(data[ends[3] :])
    machine = unpickle.Machine(tmp_path, unpickle.anywhere, unpickle.Budget(len(data)))
    machine.run(content)
    ends.append(ends[3] + content.tell())
    act = b"cos\nsystem\n(X\x02\x00\x00\x00lstR0"
    start = ends[place] + 2  # behind the protocol
    (tmp_path / "x.pt").write_bytes(data[:start] + act + data[start:])
    assert inspect(tmp_path / "x.pt").unsafe


def test_a_header_of_safetensors_has_limits(tmp_path: Path) -> None:
    for number, header in enumerate(
        [
            b'{"a": {"dtype": "F32", "shape": [0, 1000000000000000000000000000000], "data_offsets": [0, 0]}}',
            b'{"a": {"dtype": "F32", "shape": [true, 1], "data_offsets": [0, 4]}}',
            b'{"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}',
            b'{"a": {"dtype": "F32", "shape": ' + str([1] * 65).encode() + b', "data_offsets": [0, 4]}}',
            b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a": {"dtype": "F32"}}',
            b'{"__metadata__": {"a": 1}}',
            b'{"__metadata__": []}',
            b'{"a": []}',
            b"[" * 100_000,
            b'{"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}',
        ]
    ):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
        with pytest.raises(CheckpointError, match="not a safetensors file"):
            tensorfile.read_header(path)
