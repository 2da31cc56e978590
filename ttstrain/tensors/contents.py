"""Parse a file of unknown origin. Nothing in it is executed, no tensor is read."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ttstrain import documents
from ttstrain.errors import CheckpointError
from ttstrain.state import Tree
from ttstrain.tensors import pickle_names, tensorfile, unpickle

INDEX = ".safetensors.index.json"  # end of the name of an index, which lists the shard of each tensor
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer: the file itself was never fetched"),
    (b"GGUF", "a GGUF file, quantised for inference: train from the original model folder instead"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x1f\x8b", "a gzip file: unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it first"),
    (b"Rar!", "a RAR archive: unpack it first"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"RIFF", "a recording"),
    (b"fLaC", "a recording"),
    (b"<!DOCTYPE", "a web page, saved in place of the file"),
    (b"<!doctype", "a web page, saved in place of the file"),
    (b"<html", "a web page, saved in place of the file"),
    (b"<?xml", "an XML document, perhaps a server's error message"),
    (b"%PDF", "a PDF"),
)
_KINDS_HINT = "ttstrain reads .safetensors, .pt, .pth and .ckpt"
_PRINTABLE = frozenset(string.printable.encode())
_DOWNLOAD_HINT = "download it again, and compare its size with the one on the web page"


@dataclass(frozen=True, slots=True)
class Contents:
    """A parsed file; the leaves of `tree` that are tensors are `StoredTensor`s."""

    path: Path
    container: Literal["safetensors", "zip", "legacy", "pickle"]
    tree: Tree
    globals: tuple[str, ...] = ()  # names in its pickles
    head: bytes = b""  # its first two bytes; an upstream project may write its version there
    metadata: Mapping[str, str] | None = None  # of a safetensors file

    @property
    def pickled(self) -> bool:
        """Whether loading it elsewhere may run code."""
        return self.container != "safetensors"

    @property
    def unsafe(self) -> list[str]:
        """The names that an unpickler would call, such as `os.system`."""
        return pickle_names.unsafe_globals(self.globals)


def read_contents(path: Path) -> Contents:
    """Parse a checkpoint file of any layout. Raises CheckpointError for any other file; the error says what it is."""
    if not path.exists():
        raise CheckpointError(f"`{path}` does not exist")
    if not path.is_file():
        raise CheckpointError(f"`{path}` is not a file")
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise CheckpointError(f"`{path}` cannot be read: {error.strerror}") from error
    if not head:
        raise CheckpointError(f"`{path}` is empty", hint=_DOWNLOAD_HINT)
    if not any(head):
        raise CheckpointError(f"`{path}` starts with zeros: its download did not finish", hint=_DOWNLOAD_HINT)
    for signature, what in _SIGNATURES:
        if head.lstrip().startswith(signature):
            raise CheckpointError(
                f"`{path}` is {what}", hint=_DOWNLOAD_HINT if "web" in what or "LFS" in what else None
            )
    if path.name.endswith(INDEX):
        return _read_shards(path)
    if path.suffix == ".safetensors" or _is_safetensors(head):
        header = tensorfile.read_header(path)
        return Contents(path, "safetensors", dict(header.tensors), metadata=header.metadata)
    if head[2:4] != b"\x03\x04" and not unpickle.looks_pickled(path):
        raise CheckpointError(f"`{path}` is not a checkpoint", hint=_KINDS_HINT)
    read = _follow(path, head)
    return Contents(path, read.container, read.tree, globals=read.globals, head=head[:2])


def _follow(path: Path, head: bytes) -> unpickle.Pickled:
    """Parse a file's pickle. Raises CheckpointError that also names unsafe calls, or says that it is no pickle."""
    try:
        return unpickle.read(path)
    except CheckpointError as error:
        if unsafe := pickle_names.unsafe_globals(unpickle.scan_globals(path)):
            raise CheckpointError(f"{error.message}; it names {', '.join(unsafe)}, so it is unsafe as well") from error
        if all(byte in _PRINTABLE for byte in head):  # the oldest pickles are text too: so only now
            raise CheckpointError(f"`{path}` is a text file, not a checkpoint", hint=_KINDS_HINT) from error
        raise


def _read_shards(path: Path) -> Contents:
    """Read the shards of an index as one file. Raises CheckpointError unless each holds the tensors the index lists."""
    index = documents.read_object(path, error=CheckpointError, keys={"weight_map": dict}, hint=_DOWNLOAD_HINT)
    places: dict[str, str] = index["weight_map"]
    if not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(f"`{path}` is not an index of shards: a value is not a file name", hint=_DOWNLOAD_HINT)
    files = sorted(set(places.values()))
    if missing := [name for name in files if Path(name).name != name or not (path.parent / name).is_file()]:
        raise CheckpointError(
            f"`{path}` names {len(files)} files, {len(missing)} of which are not beside it, such as `{missing[0]}`",
            hint="copy or download the whole folder",
        )
    held = {name: tensorfile.read_header(path.parent / name).tensors for name in files}
    if absent := [key for key, name in places.items() if key not in held[name]]:
        raise CheckpointError(
            f"`{path}` says that `{absent[0]}` is in `{places[absent[0]]}`, which does not hold it",
            hint="copy or download the whole folder again",
        )
    listed = [key for tensors in held.values() for key in tensors]
    if strange := [key for key in listed if key not in places]:
        raise CheckpointError(
            f"`{path}` does not list `{strange[0]}`, which its files hold ({len(strange):,} such tensors)",
            hint="the index is of other files: copy or download the whole folder again",
        )
    if len(listed) > len(places):
        twice = next(key for key, count in Counter(listed).items() if count > 1)
        raise CheckpointError(f"two of the files that `{path}` names hold `{twice}`", hint=_DOWNLOAD_HINT)
    return Contents(path, "safetensors", {key: held[name][key] for key, name in places.items()})


def _is_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= tensorfile.MAX_HEADER


def refuse_unsafe(contents: Contents) -> None:
    """Raise CheckpointError when a file's pickle names something that runs code."""
    if contents.unsafe:
        raise CheckpointError(
            f"`{contents.path}` is unsafe: its pickle calls {', '.join(contents.unsafe)}",
            hint="nothing was executed; do not load it elsewhere, and get the weights as .safetensors",
        )
