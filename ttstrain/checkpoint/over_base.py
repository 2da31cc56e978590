"""Checkpoints of adapters, made whole over their base: the one place where the two are put together.

Such a checkpoint leaves out the weights that its run cannot change and that lie in the base's files. `Meta.base`
records which those are, where the base was and its checksum. Weights and EMA weights of the whole are those that the
run had, bit for bit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ttstrain.checkpoint import base_record, run_folder
from ttstrain.checkpoint.meta import BaseMeta
from ttstrain.checkpoint.store import Loaded
from ttstrain.contract.checkpoint import OpenedCheckpoint
from ttstrain.errors import CheckpointError, UserError
from ttstrain.modules.lora import plain_name
from ttstrain.places import refused_as
from ttstrain.recipe.compose import compose_run
from ttstrain.recipe.schema import base_files
from ttstrain.shell import quoted
from ttstrain.tensors.tensorfile import DTYPES, StoredTensor, converted, read_tree

OpenFiles = Callable[[Sequence[str]], OpenedCheckpoint]
Weights = Literal["stored", "read"]  # the base's weights stay in their file, or are read into memory
_UNDER_WAY: ContextVar[frozenset[Path]] = ContextVar("checkpoints whose bases are being opened", default=frozenset())
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES.values()}


def complete(
    folder: Path, loaded: Loaded, *, open_files: OpenFiles, weights: Weights, named: Sequence[str] = ()
) -> Loaded:
    """Return a checkpoint with the weights that it leaves out; one that is whole comes back as it is.

    `named` are files of the base, at their new place; else it is looked for. The `Meta.base` of what is returned says
    where it was found. Raises CheckpointError where it is gone, or holds other tensors than the run started from.
    """
    base = loaded.meta.base
    if base is None:
        return loaded
    with _once(folder):
        found = _find(folder, base, open_files, named=tuple(named))
    left_out = _left_out(folder, base, found.opened)
    own = _table(folder, loaded.state, "task")
    tensors: Mapping[str, Any] = read_tree(left_out) if weights == "read" else left_out
    state = {**loaded.state, "task": {**tensors, **own}}
    if "ema" in loaded.state:
        averages = _table(folder, loaded.state["ema"], "weights")  # of a weight that stays, the EMA is the weight
        state["ema"] = {**loaded.state["ema"], "weights": {**tensors, **averages}}
    return replace(loaded, state=state, base=found.opened, meta=loaded.meta.model_copy(update={"base": found.base}))


def places_of(opened: OpenedCheckpoint) -> tuple[str, ...]:
    """List the files that a base was read from."""
    return tuple(str(path.absolute()) for path in (opened.path, *opened.beside))


@contextmanager
def _once(folder: Path) -> Iterator[None]:
    """Refuse a checkpoint that is, by way of others, its own base."""
    if folder.resolve() in _UNDER_WAY.get():
        raise CheckpointError(f"`{folder}` is damaged: it names itself as its base")
    before = _UNDER_WAY.set(_UNDER_WAY.get() | {folder.resolve()})
    try:
        yield
    finally:
        _UNDER_WAY.reset(before)


def _table(folder: Path, tree: Any, key: str) -> Mapping[str, Any]:
    table = tree.get(key) if isinstance(tree, Mapping) else None
    if not isinstance(table, Mapping):
        raise CheckpointError(f"`{folder}` is damaged: its part `{key}` does not hold tensors by name")
    return table


def _left_out(folder: Path, base: BaseMeta, opened: OpenedCheckpoint) -> dict[str, StoredTensor]:
    """Return the base's tensors that a checkpoint leaves out, under their names and in their types there."""
    found: dict[str, StoredTensor] = {}
    for name, kind in base.tensors.items():
        stored = opened.weights.get(plain_name(name))
        if stored is None or kind not in _DTYPES:
            raise CheckpointError(f"`{folder}` is damaged: its base does not hold `{name}` of type `{kind}`")
        found[name] = converted(stored, _DTYPES[kind])
    return found


# ---------------------------------------------------------------- finding the base


@dataclass(frozen=True, slots=True)
class _Found:
    opened: OpenedCheckpoint
    base: BaseMeta


def _find(folder: Path, base: BaseMeta, open_files: OpenFiles, *, named: tuple[str, ...]) -> _Found:
    """Open the first of the places that holds what the run started from."""
    changed: OpenedCheckpoint | None = None
    reasons: dict[str, None] = {}
    for files in [named] if named else dict.fromkeys(filter(None, _candidates(folder, base))):
        try:
            with refused_as(CheckpointError):
                opened = open_files(files)
                total = base_record.checksum(opened.weights)
        except CheckpointError as error:
            reasons[error.message] = None
            continue
        except ValueError:  # no file can have such a name
            reasons[f"{files!r} are no paths"] = None
            continue
        if total == base.sha256:
            here = {"files": named, "directory": str(Path.cwd())} if named else {}
            return _Found(opened, base.model_copy(update={"places": places_of(opened), **here}))
        changed = changed or opened
    raise _not_found(folder, base, changed, list(reasons), named=bool(named))


def _candidates(folder: Path, base: BaseMeta) -> Iterator[tuple[str, ...]]:
    """Yield where the base may lie: where it was, also as seen from the run's folder, and where recipes name it."""
    run = folder.absolute().parent.parent
    yield base.places
    yield tuple(os.path.normpath(run / place) for place in base.from_run)
    yield tuple(base_record.anchored(spec, Path(base.directory)) for spec in base.files)
    yield base.files
    try:
        now = base_files(compose_run(run, origins={}).values.get("base"))
    except (UserError, OSError):
        return
    if now:
        yield tuple(base_record.anchored(spec, run_folder.directory(run)) for spec in now)
        yield now


def _not_found(
    folder: Path, base: BaseMeta, changed: OpenedCheckpoint | None, reasons: Sequence[str], *, named: bool
) -> CheckpointError:
    run = folder.parent.parent
    way = f"put it back as `{' + '.join(base.places)}`"
    if (run / run_folder.RECIPE).is_file():
        way = (
            f"put it back, or name its new place: `ttstrain resume {quoted(run)} --base FILE`, or `base:` in "
            f"`{run / run_folder.RECIPE}`"
        )
    way = "give the weights that the run started from" if named else way
    if changed is None:
        what = f"`{folder}` holds adapters, and {base.describe()} that they were trained on cannot be opened:"
        return CheckpointError(what, details=reasons, hint=way)
    what = f"`{changed.source}` is not the base that `{folder}` was trained on: its tensors have another checksum"
    return CheckpointError(what, hint=way)
