"""Recordings inside larger files, local or remote: a part of a shard is named by where it lies, and read by range.

The path of a part is `SHARD/OFFSET-SIZE.ENDING`, such as `train-000.tar/1536-48044.flac`. It can be read without any
index, by any process, and no name that a shard holds ever becomes a path. A remote shard's path begins with its scheme,
`s3:/bucket/train-000.tar`: the form that `Path` gives to an address.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from ttstrain.digest import sha256, sha256_of_file
from ttstrain.errors import DataError, first_line

SHARDS = (".tar", ".pack")
EXTRA = 'pip install "ttstrain[remote]"'
_PART = re.compile(r"([0-9]{1,15})-([0-9]{1,12})\.[A-Za-z0-9]{1,8}")
_REMOTE = re.compile(r"([a-z][a-z0-9+.-]+):/+(.*)", re.DOTALL)  # two letters or more: one is a drive of Windows


@dataclass(frozen=True, slots=True)
class Identity:
    """What changes when a file does."""

    size: int
    version: str  # by which equal sizes are told apart
    changed: int  # st_ctime_ns, which copying tools cannot set; 0 where there is none


@dataclass(frozen=True, slots=True)
class Part:
    """A range of bytes in a shard."""

    shard: Path
    offset: int
    size: int


def part_of(path: Path) -> Part | None:
    """Read a path as a part of a shard; None for the path of a whole file."""
    parent, name = os.path.split(path)
    if not parent.endswith(SHARDS) or (found := _PART.fullmatch(name)) is None:
        return None
    return Part(Path(parent), int(found[1]), int(found[2]))


def path_of(shard: Path, offset: int, size: int, ending: str) -> Path:
    """Return the path of a part; `ending` without its dot."""
    return shard / f"{offset}-{size}.{ending}"


def absolute(path: Path) -> Path:
    """Return a path that holds from any directory."""
    return path if is_remote(path) else path.absolute()


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a whole file, local or remote, or a part of a shard, for reading. Raises OSError."""
    part = part_of(path)
    if part is not None:
        yield io.BytesIO(_read(part))
    elif is_remote(path):
        with _of_the_store(path), _store(path).open(url_of(path), "rb") as file:
            yield file
    else:
        with path.open("rb") as file:
            yield file


def identity(path: Path) -> Identity:
    """Identify the content of a file; of a part, that of its shard. Raises OSError."""
    part = part_of(path)
    whole = path if part is None else part.shard
    if is_remote(whole):
        with _of_the_store(whole):
            told = _store(whole).info(url_of(whole))
        version = next((str(told[key]) for key in _VERSIONS if told.get(key)), "")
        return Identity(int(told.get("size") or 0) if part is None else part.size, version, 0)
    status = whole.stat()
    return Identity(status.st_size if part is None else part.size, str(status.st_mtime_ns), status.st_ctime_ns)


_VERSIONS = ("ETag", "etag", "md5Hash", "blob_id", "LastModified", "mtime", "created")


def digest_of(path: Path) -> str:
    """Return the SHA-256, hex, of a file or of a part of a shard. Raises OSError."""
    part = part_of(path)
    return sha256_of_file(path) if part is None else sha256(_read(part))


def _read(part: Part) -> bytes:
    if is_remote(part.shard):
        with _of_the_store(part.shard):
            content: bytes = _store(part.shard).cat_file(
                url_of(part.shard), start=part.offset, end=part.offset + part.size
            )
    else:
        with part.shard.open("rb", buffering=0) as file:
            if part.offset + part.size > os.fstat(file.fileno()).st_size:
                raise OSError(f"`{part.shard}` ends before the recording at {part.offset:,}: the file is truncated")
            file.seek(part.offset)
            content = file.read(part.size)
    if len(content) != part.size:
        raise OSError(f"`{part.shard}` ends before the recording at {part.offset:,}: the file is truncated")
    return content


# ---------------------------------------------------------------- addresses


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Tell whether a path is an address of another store than the file system."""
    return _REMOTE.match(os.fspath(path)) is not None


def url_of(path: str | os.PathLike[str]) -> str:
    """Return the address that a remote path stands for."""
    found = _REMOTE.match(os.fspath(path))
    assert found is not None
    return f"{found[1]}://{found[2]}"


def local_or_remote(named: str) -> str:
    """Return what `data.path` names, `file://` as the path that it means. Raises DataError for a password in it."""
    found = _REMOTE.match(named)
    if found is None:
        return named
    if found[1] == "file":
        return "/" + found[2]
    if "@" in found[2].split("/")[0]:
        raise DataError(
            "an address of data holds a name or a password before its `@`",
            hint="leave it out: give credentials by the store's own environment variables or files",
        )
    return named


def glob(pattern: str) -> list[Path]:
    """List the remote files that a pattern matches, sorted."""
    with _of_the_store(Path(pattern)):
        names = _store(Path(pattern)).glob(url_of(pattern))
    scheme = url_of(pattern).partition("://")[0]
    return [Path(f"{scheme}://{name.lstrip('/')}") for name in sorted(names)]


def _store(path: Path) -> Any:
    """Return fsspec's file system of an address. Raises DataError where a package is missing."""
    scheme = url_of(path).partition("://")[0]
    try:
        import fsspec
    except ImportError as error:
        raise DataError(f"reading `{scheme}://` needs fsspec", hint=EXTRA) from error
    try:
        return fsspec.filesystem(scheme)
    except ImportError as error:
        raise DataError(f"reading `{scheme}://` needs another package: {first_line(error)}", hint=EXTRA) from error
    except ValueError as error:
        raise DataError(f"no store is known by `{scheme}://`", hint="such as s3://, gs://, hf://, file://") from error


@contextmanager
def _of_the_store(path: Path) -> Iterator[None]:
    """Turn what a store's library raises into an OSError that names the file and quotes nothing that may be secret."""
    try:
        yield
    except (DataError, GeneratorExit):
        raise
    except FileNotFoundError as error:
        raise FileNotFoundError(2, "there is no such file", str(path)) from error
    except Exception as error:
        raise OSError(f"`{PurePosixPath(path)}` cannot be read from its store ({type(error).__name__})") from error
