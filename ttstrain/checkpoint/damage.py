"""Find the damaged files of a checkpoint of ttstrain, and the intact checkpoint before it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ttstrain.checkpoint.meta import FileMeta, Meta, read_meta
from ttstrain.digest import sha256_of_file
from ttstrain.errors import CheckpointError
from ttstrain.shell import quoted

_CHECKPOINTS = "checkpoints"


def fault_of(path: Path, expected: FileMeta, *, content: bool = True) -> str | None:
    """Say what is wrong with a file of a checkpoint, or None; without `content` only its size is looked at."""
    try:
        if not path.is_file():
            return f"`{path}` is missing from its checkpoint"
        if (size := path.stat().st_size) != expected.bytes:
            return f"`{path}` has {size:,} bytes instead of {expected.bytes:,}"
        if content and sha256_of_file(path) != expected.sha256:
            return f"`{path}` is damaged: its sha256 differs from the recorded one"
    except OSError as error:
        return f"`{path}` cannot be read: {error.strerror or error}"
    return None


def faults(folder: Path, meta: Meta, *, names: Iterable[str] | None = None) -> dict[str, str]:
    """Read every file of a checkpoint, or those of `names`; return what is wrong, by file name."""
    wanted = meta.files if names is None else {name: meta.files[name] for name in names if name in meta.files}
    found = {name: fault_of(folder / name, expected) for name, expected in wanted.items()}
    return {name: fault for name, fault in found.items() if fault is not None}


def refuse_damaged(folder: Path, meta: Meta, *, names: Iterable[str] | None = None) -> None:
    """Raise CheckpointError where a file of a checkpoint, or one of `names`, is not what was written."""
    with naming_a_sound_one(folder):
        for fault in faults(folder, meta, names=names).values():
            raise CheckpointError(fault)


def open_meta(folder: Path) -> Meta:
    """Read `meta.json`. Raises CheckpointError that also names the intact checkpoint before a damaged one."""
    with naming_a_sound_one(folder):
        return read_meta(folder)


@contextmanager
def naming_a_sound_one(folder: Path) -> Iterator[None]:
    """Add to a CheckpointError on a run's checkpoint the intact one before it and the command that resumes from it."""
    try:
        yield
    except CheckpointError as error:
        if folder.parent.name != _CHECKPOINTS or _SOUND in (error.hint or ""):
            raise
        raise CheckpointError(error.message, hint=_way_out(folder)) from error


_SOUND = "is intact"


def _way_out(folder: Path) -> str:
    sound = sound_before(folder)
    if sound is None:
        return "no other checkpoint of this run is intact: start again from its base, or from another run"
    run = folder.parent.parent
    return f"`{sound.name}` {_SOUND}: `ttstrain resume {quoted(run)} --from {sound.name}` continues from it"


def sound_before(folder: Path) -> Path | None:
    """Find the newest intact checkpoint before this one, else after it."""
    others = sorted(other for other in folder.parent.glob("step-*") if other.name != folder.name)
    before = [other for other in others if other.name < folder.name]
    for other in [*reversed(before), *(other for other in others if other.name > folder.name)]:
        try:
            if not faults(other, read_meta(other)):
                return other
        except CheckpointError:
            continue
    return None
