"""WebDataset shards: tar files whose members with a common stem are one sample. Read where they lie, never unpacked.

A sample is a recording (`000.flac`) beside its text (`000.txt`) or an object with text, speaker and language
(`000.json`). Names of members become ids at most, never paths. What a shard holds is kept in the cache, so that a shard
is gone through once.
"""

from __future__ import annotations

import io
import itertools
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from ttstrain import documents
from ttstrain.contract.table import Row, RowTable
from ttstrain.data import atomic, shards
from ttstrain.data.readers.collect import Collector
from ttstrain.data.readers.columns import (
    DURATION,
    ID,
    LANGUAGE,
    SPEAKER,
    TEXT,
    first_of,
    language_code,
    plain,
    seconds_of,
)
from ttstrain.data.readers.ids import Place
from ttstrain.data.readers.locate import AUDIO_SUFFIXES
from ttstrain.data.readers.rows import TableError, printable
from ttstrain.digest import sha256
from ttstrain.errors import DataError
from ttstrain.places import expanded

NAME = "webdataset"
LAYOUT = 1  # raise when what is kept of a shard changes
BLOCK = 512  # bytes; the end of a tar is a block of zeros
MOST_SHARDS = 100_000
MOST_TEXT = 1 << 20  # bytes of a text
MOST_SOUND = 1 << 30  # bytes of a recording
MOST_HEADER = 1 << 16  # bytes of a member's long name
_RANGE = re.compile(r"\{([0-9]{1,9})\.\.([0-9]{1,9})\}")
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")


def shards_of(named: str) -> list[Path] | None:
    """Return the tars that a folder, a tar, a pattern or a range such as `train-{000..099}.tar` names.

    None for anything else. Raises TableError where a pattern or a range names none.
    """
    remote = shards.is_remote(named)
    if not remote and (path := expanded(named)).is_dir():
        return sorted(path.glob("*.tar")) or None
    if not named.endswith(".tar"):
        return shards.glob(f"{named.rstrip('/')}/*.tar") or None if remote else None
    names = list(itertools.islice(_ranges(named), MOST_SHARDS + 1))
    if len(names) > MOST_SHARDS:
        raise TableError("no_data", f"`{printable(named)}` names more than {MOST_SHARDS:,} shards")
    found: list[Path] = []
    for name in names:
        if not any(c in name for c in "*?["):
            found.append(Path(name) if remote else expanded(name))
        elif remote:
            found += shards.glob(name)
        else:
            found += sorted(expanded(name).parent.glob(expanded(name).name))
    if not found:
        raise TableError("no_data", f"no shard matches `{printable(named)}`")
    return found


def _ranges(name: str) -> Iterator[str]:
    found = _RANGE.search(name)
    if found is None:
        yield name
        return
    first, last = found[1], found[2]
    for number in range(int(first), int(last) + 1):
        yield from _ranges(f"{name[: found.start()]}{number:0{len(first)}d}{name[found.end() :]}")


def read_webdataset(files: Sequence[Path], keep_in: Path) -> RowTable:
    """Read the samples of tar shards. Raises TableError that names a shard which is damaged or truncated."""
    collector = Collector(files[0].parent, NAME)
    for path in files:
        for sample in _samples(path, keep_in):
            _add(collector, path, sample)
    if not collector.rows and not collector.findings:
        raise TableError("no_rows", f"`{files[0]}` and {len(files) - 1} others hold no samples")
    return collector.table()


@dataclass(slots=True)
class _Sample:
    """What a shard holds under one stem."""

    stem: str
    sounds: list[tuple[int, int, str]] = field(default_factory=list)  # offset, size, ending
    seconds: float = 0.0
    text: str | None = None
    values: dict[str, str] = field(default_factory=dict)  # id, speaker, language
    fault: str = ""

    def to_json(self) -> list[Any]:
        return [self.stem, self.sounds, self.seconds, self.text, self.values, self.fault]

    @classmethod
    def from_json(cls, values: Any) -> _Sample:
        stem, sounds, seconds, text, named, fault = values
        return cls(stem, [(int(at), int(size), str(end)) for at, size, end in sounds], seconds, text, named, fault)


def _add(collector: Collector, path: Path, sample: _Sample) -> None:
    source = f"{path.name}:{sample.stem}"
    key = PurePosixPath(sample.stem)
    row = Row(
        id=sample.values.get("id") or key.name or source,
        audio=None,
        text=sample.text or "",
        speaker=sample.values.get("speaker", ""),
        language=language_code(sample.values.get("language", "")),
        seconds=sample.seconds,
        source=source,
    )
    fault = sample.fault
    if not fault and len(sample.sounds) != 1:
        fault = f"{len(sample.sounds)} recordings in one sample" if sample.sounds else "the sample holds no recording"
    if fault:
        collector.add_finding(row, "skip", "bad_row", fault)
        return
    offset, size, ending = sample.sounds[0]
    with_sound = Row(
        **{name: getattr(row, name) for name in row.__slots__ if name != "audio"},
        audio=shards.path_of(path, offset, size, ending),
    )
    collector.add(with_sound, Place((path.stem, *key.parent.parts), key.name))


# ---------------------------------------------------------------- one shard, kept once it was read


def _samples(path: Path, keep_in: Path) -> list[_Sample]:
    try:
        identity = shards.identity(path)
    except OSError as error:
        raise TableError("no_data", f"`{path}` cannot be read: {error.strerror or error}") from error
    told = f"{LAYOUT} {shards.absolute(path)} {identity}"
    kept = keep_in / f"{sha256(told)[:32]}.json"
    if (known := _kept(kept)) is not None:
        return known
    try:
        with shards.opened(path) as file:
            found = list(_grouped(path, file, identity.size))
    except (tarfile.TarError, OSError, MemoryError, UnicodeError, ValueError, OverflowError) as error:
        raise TableError("unreadable", f"`{path}` is no readable tar: {error}", hint="download it again") from error
    content = json.dumps([sample.to_json() for sample in found])
    with suppress(OSError):
        atomic.write_bytes(kept, f"{sha256(content)}\n{content}".encode(), durability="cached")
    return found


def _kept(path: Path) -> list[_Sample] | None:
    if not path.is_file():
        return None
    try:
        checksum, _, content = documents.read_text(path, error=DataError, most_bytes=documents.MAX_TABLE).partition(
            "\n"
        )
        if checksum == sha256(content):
            return [_Sample.from_json(one) for one in documents.parse(content)]
    except (DataError, ValueError, TypeError):
        pass
    return None


class _Member(tarfile.TarInfo):
    """A member whose own headers are of a size that can be meant."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> Any:
        member = super().frombuf(buf, encoding, errors)
        if member.size < 0 or (member.type in _HEADERS and member.size > MOST_HEADER):
            raise tarfile.ReadError(f"a header of {member.size:,} bytes")
        return member


_HEADERS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.GNUTYPE_SPARSE),
)


def _grouped(path: Path, file: BinaryIO, size: int) -> Iterator[_Sample]:
    """Yield the samples of a tar, members in a row with one stem each. Raises ReadError where it is damaged."""
    if (start := file.read(6)).startswith(_COMPRESSED):
        raise tarfile.ReadError("it is compressed, so that parts of it cannot be read: decompress it")
    if (other := documents.never_fetched(start + file.read(506))) is not None:
        raise tarfile.ReadError(f"it is {other}")
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:", tarinfo=_Member, errors="surrogateescape") as tar:
        sample: _Sample | None = None
        for member in tar:
            if member.isdir():
                continue
            stem, ending = _split(member.name)
            if sample is None or stem != sample.stem:
                if sample is not None:
                    yield sample
                sample = _Sample(stem)
            _take(sample, tar, member, ending, size)
        end = tar.offset
        if sample is not None:
            yield sample
    file.seek(end)
    if file.read(BLOCK) != bytes(BLOCK):
        raise tarfile.ReadError(
            f"it ends at byte {end:,} without the mark of its end: the file is truncated or damaged"
        )


def _split(name: str) -> tuple[str, str]:
    """Divide a member's name at the first dot of its last part, as WebDataset does."""
    folder, slash, last = name.rpartition("/")
    stem, _, ending = last.partition(".")
    return f"{folder}{slash}{stem}", ending.lower().rpartition(".")[2]


def _take(sample: _Sample, tar: tarfile.TarFile, member: tarfile.TarInfo, ending: str, size: int) -> None:
    is_sound = f".{ending}" in AUDIO_SUFFIXES
    if not is_sound and ending not in ("txt", "json"):
        return
    if not member.isreg() or member.sparse is not None:
        sample.fault = "a link, a device or the like instead of a file"
    elif member.offset_data + member.size > size:
        raise tarfile.ReadError(f"`{printable(member.name)}` goes beyond its end: the file is truncated")
    elif member.size > (MOST_SOUND if is_sound else MOST_TEXT):
        sample.fault = f"`{printable(member.name)}` has {member.size:,} bytes: too many"
    elif is_sound:
        sample.sounds.append((member.offset_data, member.size, ending))
        sample.seconds = sample.seconds or _seconds(_content(tar, member))
    else:
        _read_text(sample, _content(tar, member), ending)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


def _seconds(content: bytes) -> float:
    """Read a recording's length from its header; 0 where it says nothing usable: measuring it says why."""
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            return seconds_of(file.frames / file.samplerate)
    except (soundfile.LibsndfileError, ValueError, ZeroDivisionError):
        return 0.0


def _read_text(sample: _Sample, content: bytes, ending: str) -> None:
    try:
        if ending == "txt":
            sample.text = content.decode("utf-8-sig").strip() if sample.text is None else sample.text
            return
        values = documents.check_object(documents.parse(content, numbers="any"), {})
    except (documents.DocumentError, UnicodeDecodeError) as error:
        sample.fault = f"its .{ending} cannot be read: {error}"
        return
    named = {plain(key): value for key, value in values.items()}
    text = next((named[name] for name in TEXT if isinstance(named.get(name), str) and named[name].strip()), None)
    sample.text = text if text is not None else sample.text
    for use, names in (("id", ID), ("speaker", SPEAKER), ("language", LANGUAGE)):
        value = named.get(first_of(names, named) or "")
        if isinstance(value, str | int) and not isinstance(value, bool):
            sample.values[use] = str(value).strip()
    if (key := first_of(DURATION, named)) is not None:
        sample.seconds = sample.seconds or seconds_of(named[key])
