"""Find the file that a table names, without leaving the data folder.

Formats whose definition has absolute paths (a family's own tables, JSONL) may name files anywhere. In the others, names
are relative to the data folder, and one that leads out of it is refused before anything is opened. A link inside the
folder may lead out of it, but only to a sound file (the audit checks that).
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath

from ttstrain.data.readers.rows import printable

DECODED = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64")
NOT_DECODED = (".m4a", ".aac", ".mp4", ".3gp", ".webm", ".mka", ".wma", ".amr", ".ape", ".wv")  # told by name
AUDIO_SUFFIXES = (*DECODED, *NOT_DECODED)
FOLDERS = ("", "wavs", "wav", "audio", "clips")  # below the data folder, in the order they are looked at
PLAIN_NAME = re.compile(rf"(?:[A-Za-z0-9_-]+/)*[A-Za-z0-9_-]+(?:{'|'.join(map(re.escape, DECODED))})")
_PLAIN_CHARACTERS = bytes(c for c in range(128) if PLAIN_NAME.fullmatch(f"{chr(c)}.wav") or chr(c) in ".\n")
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|file:")


@dataclass(frozen=True, slots=True)
class Found:
    path: Path
    moved: bool = False  # found by its file name in another folder than the table says


@dataclass(frozen=True, slots=True)
class Lost:
    """Why no file was found."""

    reason: str
    why: str


class Locator:
    """Finds files below one folder by name, with or without ending, in any Unicode normal form."""

    def __init__(self, root: Path, *, anywhere: bool = False) -> None:
        self.root = root
        self.anywhere = anywhere
        self._listings: dict[Path, _Listing] = {}
        self._folders: dict[str, _Folder | None] = {}  # of plain names
        self._written: set[str] = set()  # the files in those folders whose names are plain, as a table may name them

    def find(self, name: str, *, beside: Callable[[], Iterable[Path]] = tuple) -> Found | Lost:
        """Find the file that a row names; `beside` returns folders to search for its file name alone."""
        if (at_once := self.as_written(name)) is not None:
            return Found(at_once)
        found = self._find(name.strip())
        bare = PureWindowsPath(name.strip()).name
        if not isinstance(found, Lost) or not self.anywhere or not bare:
            return found
        near = (self._walk(PurePosixPath(bare), folder) for folder in beside())
        return next((Found(path, moved=True) for path in near if path is not None), found)

    def as_written(self, name: str) -> Path | None:
        """Return the file of a name that needs no interpretation; None leaves it to `_find`."""
        if not PLAIN_NAME.fullmatch(name):
            return None
        folder, _, file = name.rpartition("/")
        known = self._folder(folder)
        return known.path / file if known is not None and known.names.get(file) == file else None

    def all_as_written(self, names: Sequence[str]) -> list[str] | None:
        """Return the paths of many names' files; None if one of them has to be left to `_find`."""
        unknown = set(names) - self._written
        while unknown:  # most are in one folder or two
            name = next(iter(unknown))
            folder = name.rpartition("/")[0]
            if folder in self._folders or not PLAIN_NAME.fullmatch(name):
                return None
            self._folder(folder)
            unknown -= self._written
        start = str(self.root / "_")[:-1]
        return [start + name for name in names]

    def _folder(self, name: str) -> _Folder | None:
        """Return a folder by its plain name, empty for the data folder; None if it is not there."""
        if name not in self._folders:
            here = self._walk(PurePosixPath(name))
            self._folders[name] = None if here is None else _Folder(here, self._listing(here).names)
            if (known := self._folders[name]) is not None:
                start = f"{name}/" if name else ""
                self._written.update([start + file for file in _plain(list(known.names.values()))])
        return self._folders[name]

    def _find(self, name: str) -> Found | Lost:
        if not name:
            return Lost("missing_file", "the row names no file")
        if SCHEME.match(name):
            return Lost("outside_folder", "the name is an address, not a file: download it first")
        inside = self.inside(name) if leaves_folder(name) else name
        if inside is None and not self.anywhere:
            return Lost("outside_folder", "the name leads out of the data folder")
        if inside is None:
            if os.path.lexists(self.root / name):
                return Found(self.root / name)
            bare = PureWindowsPath(name).name
            found = self._below(bare) if bare else None
            return Found(found, moved=True) if found else Lost("missing_file", f"there is no `{printable(name)}`")
        found = self._below(inside)
        return Found(found) if found else self._lost(inside)

    def inside(self, name: str) -> str | None:
        """Return an absolute or climbing path relative to the folder; None if it leads outside. Opens nothing."""
        spelled = name.replace("\\", "/")
        if PureWindowsPath(name).drive or spelled.startswith(("//", "~")):
            return None
        here = self.root.absolute()
        full = PurePosixPath(os.path.normpath(here / spelled))
        for folder in (PurePosixPath(os.path.normpath(here)), PurePosixPath(os.path.realpath(here))):
            if full.is_relative_to(folder) and full != folder:
                return str(full.relative_to(folder))
        return None

    def _below(self, name: str) -> Path | None:
        has_ending = PurePosixPath(name).suffix.lower() in AUDIO_SUFFIXES
        endings = ("",) if has_ending else (*AUDIO_SUFFIXES, "")
        for spelled in dict.fromkeys((name, name.replace("\\", "/"))):
            for folder in FOLDERS:
                for ending in endings:
                    if found := self._walk(PurePosixPath(folder, spelled + ending)):
                        return found
        return None

    def _walk(self, relative: PurePosixPath, root: Path | None = None) -> Path | None:
        """Follow a path part by part, from the data folder or another, comparing composed names."""
        here = root or self.root
        for part in relative.parts:
            actual = self._listing(here).names.get(unicodedata.normalize("NFC", part))
            if actual is None:
                return None
            here = here / actual
        return here

    def _lost(self, name: str) -> Lost:
        wanted = unicodedata.normalize("NFC", name).casefold()
        endings = ("",) if PurePosixPath(name).suffix.lower() in AUDIO_SUFFIXES else AUDIO_SUFFIXES
        for folder in FOLDERS:
            listing = self._listing(self.root / folder)
            for ending in endings:
                if near := listing.folded.get(wanted + ending):
                    return Lost(
                        "missing_file", f"there is no `{printable(name)}`, but `{PurePosixPath(folder, near)}` is"
                    )
        looked = "as it is, and in " + ", ".join(f"{folder}/" for folder in FOLDERS if folder)
        return Lost("missing_file", f"there is no sound file `{printable(name)}` (looked for {looked})")

    def _listing(self, folder: Path) -> _Listing:
        if folder not in self._listings:
            try:
                names = sorted(os.listdir(folder))  # noqa: PTH208
            except OSError:  # no such folder, or no permission: nothing is found in it
                names = []
            composed = names if "".join(names).isascii() else map(_composed, names)
            self._listings[folder] = _Listing(dict(zip(composed, names, strict=True)))
        return self._listings[folder]


@dataclass(frozen=True)
class _Listing:
    names: dict[str, str]  # composed name -> name on disk

    @cached_property
    def folded(self) -> dict[str, str]:
        """Map composed names without case to names on disk; few tables need it."""
        return {name.casefold(): actual for name, actual in self.names.items()}


def _plain(names: list[str]) -> list[str]:
    """Return those that are plain names of files; in most folders all are, and are looked at together."""
    together = "\n".join(["", *names, ""])
    all_plain = (
        together.isascii()
        and not together.encode().translate(None, _PLAIN_CHARACTERS)
        and together.count("\n") == len(names) + 1
        and together.count(".") == sum(together.count(f"{suffix}\n") for suffix in DECODED) == len(names)
        and "\n." not in together
    )
    return names if all_plain else [name for name in names if PLAIN_NAME.fullmatch(name)]


def _composed(name: str) -> str:
    return name if name.isascii() else unicodedata.normalize("NFC", name)


@dataclass(frozen=True, slots=True)
class _Folder:
    path: Path
    names: Mapping[str, str]  # as in its listing


def leaves_folder(name: str) -> bool:
    """Tell whether a path is absolute or contains `..`, in POSIX or Windows notation."""
    windows = PureWindowsPath(name)
    return (
        name.startswith(("/", "\\", "~"))
        or bool(windows.drive)
        or ".." in windows.parts  # a Windows path knows both slashes
        or ".." in PurePosixPath(name).parts
    )


def is_audio_name(name: str) -> bool:
    """Tell whether a file's ending is that of a sound file."""
    return PurePosixPath(name).suffix.lower() in AUDIO_SUFFIXES
