"""The readers: healthy files, how they are edited, and how each is read."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from hostile.mutation import Case, Edit, Files, in_its_place, several, write_files
from hostile.pool import Outcome, Read, Seen, Trial, limited, read_all

IN_ITS_PLACE = 0.06  # share of the cases in which something else stands in the file's place
_TABLES = tuple(
    f"hostile.readers.{name}" for name in ("data", "lists", "tensor_files", "checkpoints", "runs", "projects", "kept")
)


@dataclass(frozen=True, slots=True)
class Sample:
    """Healthy files, and the one of them that is edited."""

    files: Files
    target: str
    edit: Edit
    signed: Callable[[Files], Files] | None = None  # makes every checksum right again: the result is another valid set
    allowed: Collection[str] = ()  # what `in_its_place` may put there so that the files are still valid


@dataclass(frozen=True, slots=True)
class Reader:
    """A reader of ttstrain, or a few that read the same file one after the other."""

    name: str
    samples: Callable[[Path], Sequence[Sample]]  # made in an empty folder
    read: Read
    cases: int  # of the full form


def readers() -> Mapping[str, Reader]:
    """Return all readers by name."""
    found: dict[str, Reader] = {}
    for module in _TABLES:
        for reader in importlib.import_module(module).READERS:
            assert reader.name not in found, reader.name
            found[reader.name] = reader
    return found


def prepared(reader: Reader, place: Path, *, seed: int = 0) -> Trial:
    """Write a reader's healthy files and read them. Raises what the reader raises: healthy files must be accepted."""
    (place / "home").mkdir(parents=True)
    making = place / "making"
    making.mkdir()
    samples = list(reader.samples(making))
    originals: list[Seen] = []
    for number, sample in enumerate(samples):
        folder = place / "case"
        write_files(folder, sample.files)
        with limited():
            originals.append(reader.read(folder))
        folder.rename(place / f"healthy-{number}")

    def make(number: int) -> Case:
        return make_case(Random(f"{reader.name}/{seed}/{number}"), samples)

    return Trial(make, reader.read, originals, place)


def make_case(rng: Random, samples: Sequence[Sample]) -> Case:
    """Choose a sample and change it."""
    index = rng.randrange(len(samples))
    sample = samples[index]
    if rng.random() < IN_ITS_PLACE:
        case = in_its_place(rng, sample.files, sample.target, allowed=sample.allowed)
        return replace(case, sample=index)
    content = sample.files[sample.target]
    assert isinstance(content, bytes)
    edited = several(rng, content, sample.edit)
    files = {**sample.files, sample.target: edited.content}
    plain = edited.plain
    if sample.signed is not None:
        plain = rng.random() < 0.6
        files = dict(sample.signed(files)) if plain else files
    return Case(files, f"{sample.target}: {edited.how}", plain, sample=index)


def read_cases(reader: Reader, place: Path, numbers: Sequence[int], *, seed: int = 0) -> Iterator[Outcome]:
    """Read some of a reader's cases in the new folder `place`."""
    yield from read_all(prepared(reader, place, seed=seed), numbers)


def files_in(folder: Path) -> dict[str, bytes]:
    """Read a folder's files."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
