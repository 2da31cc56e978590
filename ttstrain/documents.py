"""Read untrusted JSON and small texts: bounded in size and depth, every fault a `UserError`.

Everything that reads JSON goes through here; YAML is read by `ttstrain.recipe.yaml12`, over the same `read_text`.
`parse` raises `DocumentError`, for readers that judge line by line; the functions that take a path raise the
`UserError` that the caller names.
"""

from __future__ import annotations

import json
import math
import stat
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, Literal

from ttstrain.errors import UserError

MEBIBYTE = 1 << 20
MAX_BYTES = 16 * MEBIBYTE  # of one document; readers of long tables ask for more
MAX_TABLE = 2048 * MEBIBYTE  # of a table with a line a clip
MAX_DEPTH = 64  # containers in containers
MAX_DIGITS = 100  # of one number: it still fits into a float
_SHOWN = 160  # characters of a reason that quotes the file

Numbers = Literal["finite", "any"]  # whether NaN, Infinity and what overflows to it are numbers
_KINDS = {dict: "an object", list: "a list", str: "a text", int: "a whole number", float: "a number", bool: "a boolean"}


class DocumentError(ValueError):
    """Why a text is not a valid document; the message does not name the file."""


def read_json(
    path: Path,
    *,
    error: type[UserError],
    hint: str | None = None,
    most_bytes: int = MAX_BYTES,
    numbers: Numbers = "finite",
) -> Any:
    """Read a JSON file. Raises `error` naming the file and the reason when it is no JSON that is safe to use."""
    text = read_text(path, error=error, hint=hint, most_bytes=most_bytes)
    try:
        return parse(text, numbers=numbers)
    except DocumentError as fault:
        raise error(f"`{path}` cannot be read: {fault}", hint=hint) from fault


def read_object(
    path: Path,
    *,
    error: type[UserError],
    keys: Mapping[str, type] | None = None,
    hint: str | None = None,
    most_bytes: int = MAX_BYTES,
    numbers: Numbers = "finite",
) -> dict[str, Any]:
    """Read a JSON object that holds `keys`, each with a value of the type given. Raises `error` for anything else."""
    values = read_json(path, error=error, hint=hint, most_bytes=most_bytes, numbers=numbers)
    try:
        return check_object(values, keys or {})
    except DocumentError as fault:
        raise error(f"`{path}` cannot be read: {fault}", hint=hint) from fault


def check_object(values: Any, keys: Mapping[str, type]) -> dict[str, Any]:
    """Return `values` if it is an object that has `keys` with values of their types. Raises DocumentError."""
    if not isinstance(values, dict):
        raise DocumentError(f"it holds {_kind_of(values)} instead of an object")
    for key, kind in keys.items():
        if key not in values:
            raise DocumentError(f"`{key}` is missing")
        if not _is_a(values[key], kind):
            raise DocumentError(f"`{key}` is {_kind_of(values[key])}, not {_KINDS[kind]}")
    return values


def parse(text: str | bytes, *, numbers: Numbers = "finite") -> Any:
    """Parse one JSON value. Raises DocumentError, also where a key is given twice or the nesting is too deep."""
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_finite if numbers == "finite" else float,
            parse_constant=_refused if numbers == "finite" else float,
        )
    except DocumentError:
        raise
    except UnicodeDecodeError as error:
        raise DocumentError(_not_utf8(error)) from error
    except RecursionError as error:
        raise DocumentError(f"it is nested more than {MAX_DEPTH} deep") from error
    except ValueError as error:
        raise DocumentError(f"it is not JSON ({str(error)[:_SHOWN]})") from error
    if (text.count("[") + text.count("{")) > MAX_DEPTH and _is_deep(value):
        raise DocumentError(f"it is nested more than {MAX_DEPTH} deep")
    return value


def read_text(
    path: Path,
    *,
    error: type[UserError],
    hint: str | None = None,
    most_bytes: int = MAX_BYTES,
) -> str:
    """Read a UTF-8 text, with or without a BOM. Raises `error` for a device or pipe, and for too many bytes."""
    content = read_bytes(path, error=error, hint=hint, most_bytes=most_bytes)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise error(f"`{path}` cannot be read: {_not_utf8(fault)}", hint=hint or "save it as UTF-8") from fault


def read_bytes(path: Path, *, error: type[UserError], hint: str | None = None, most_bytes: int = MAX_BYTES) -> bytes:
    """Read a whole file of at most `most_bytes`. Raises `error` when it is larger, no ordinary file, or forbidden."""
    try:
        check_ordinary(path, error=error, hint=hint)
        size = path.stat().st_size
        too_large = size > most_bytes
        with path.open("rb") as file:
            content = b"" if too_large else _read_on(file, size, most_bytes)
    except OSError as fault:
        raise error(f"`{path}` cannot be read: {fault.strerror or fault}", hint=hint) from fault
    except ValueError as fault:  # a NUL, or a letter that the system's encoding lacks
        raise error(f"{str(path)!r} cannot be read: no file can have this name", hint=hint) from fault
    except MemoryError as fault:
        raise error(f"`{path}` cannot be read: it does not fit into memory", hint=hint) from fault
    if too_large or len(content) > most_bytes:
        limit = f"{most_bytes >> 20:,} MiB" if most_bytes >= MEBIBYTE else f"{most_bytes >> 10:,} KiB"
        raise error(f"`{path}` cannot be read: it is larger than {limit}", hint=hint)
    return content


def never_fetched(start: bytes) -> str | None:
    """Say what lies in the place of a file that was to be downloaded, by its first bytes; None if it is another one."""
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself: run `git lfs pull`"
    if start.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        return "a web page: the download failed"
    return None


def _read_on(file: IO[bytes], size: int, most_bytes: int) -> bytes:
    """Read a file of this size, and what it has beyond it: those in /proc report 0. One byte too many is enough.

    Not more is asked for than there is: a read of so many bytes first claims the memory for all of them.
    """
    content = file.read(size + 1)
    while len(content) > size and len(content) <= most_bytes:
        size = len(content)
        content += file.read(min(MEBIBYTE, most_bytes + 1 - size))
    return content


def check_ordinary(path: Path, *, error: type[UserError], hint: str | None = None) -> None:
    """Raise `error` for a folder, a device, a pipe or a socket, which may never end; OSError if nothing is there."""
    mode = path.stat().st_mode
    if stat.S_ISREG(mode):
        return
    kind = next((name for test, name in _OTHERS if test(mode)), "no ordinary file")
    raise error(f"`{path}` cannot be read: it is {kind}, not an ordinary file", hint=hint)


_OTHERS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


# ---------------------------------------------------------------- hooks of `json.loads`, and checks


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise DocumentError(f"the key `{twice[:_SHOWN]}` is given twice")
    return values


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise DocumentError(f"a number of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise DocumentError(f"the number {text[:_SHOWN]} is too large")
    return value


def _refused(text: str) -> float:
    raise DocumentError(f"{text} instead of a number")


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in _children(node) if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def _children(node: Any) -> Iterable[Any]:
    return node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()


def _is_a(value: Any, kind: type) -> bool:
    if kind is bool or isinstance(value, bool):
        return isinstance(value, bool) and kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _kind_of(value: Any) -> str:
    return "nothing" if value is None else _KINDS.get(type(value), f"a {type(value).__name__}")


def _not_utf8(error: UnicodeDecodeError) -> str:
    line = error.object[: error.start].count(b"\n") + 1
    return f"line {line} is not UTF-8 (byte 0x{error.object[error.start]:02x} at {error.start:,})"
