"""Checkpoints of other trainers, and the one way to open any checkpoint as weights.

A family knows its upstream's files: it offers `UpstreamFormat`s, and this module asks every family in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from ttstrain import registry
from ttstrain.checkpoint import over_base, pointers, store
from ttstrain.checkpoint.damage import refuse_damaged
from ttstrain.checkpoint.meta import META_FILE
from ttstrain.checkpoint.parts import merge
from ttstrain.checkpoint.worth import never_better, trained_schedule_free
from ttstrain.contract.checkpoint import Label, OpenedCheckpoint, OptimizerGroup, UpstreamFormat
from ttstrain.contract.project import Chosen
from ttstrain.errors import CheckpointError, first_line
from ttstrain.modules import stored_lora as adapted
from ttstrain.places import refused_as
from ttstrain.recipe.shipped import base_path
from ttstrain.state import Tree
from ttstrain.tensors import hub
from ttstrain.tensors.contents import INDEX, Contents, read_contents, refuse_unsafe
from ttstrain.tensors.tensorfile import StoredTensor
from ttstrain.tensors.unpickle import label

_SHOWN = 80  # characters of a key
SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt")


# ---------------------------------------------------------------- opening


@refused_as(CheckpointError)
def open_checkpoint(path: Path, *, task: str | None = None) -> OpenedCheckpoint:
    """Open a checkpoint file, or a folder of ours, for use as weights; `task` is what the recipe trains.

    Raises CheckpointError when it is unreadable, unknown, of another family, or when its pickle names something that
    runs code: nothing here would run it, but such a file was not made by a trainer.
    """
    path = follow(path)
    if path.is_dir():
        opened = open_own(path)
    else:
        contents = read_contents(path)
        refuse_unsafe(contents)
        known = identify(contents)
        if known is None:
            stranger = registry.identify_unknown(all_keys(contents.tree))
            if stranger is not None:
                raise CheckpointError(f"`{path}` {stranger.what}", hint=stranger.hint)
            raise CheckpointError(
                f"`{path}` matches no family of ttstrain: it holds {describe_keys(contents.tree)}",
                hint="`ttstrain inspect-ckpt` shows what is in it",
            )
        opened = known
    if task is not None and opened.refusal:
        raise CheckpointError(
            f"`{path}` {opened.refusal}", hint="`ttstrain inspect-ckpt` shows what is in it; choose another base"
        )
    if task is not None and opened.family != task.split("/", maxsplit=1)[0]:
        raise CheckpointError(
            f"`{path}` is of family `{opened.family}`, but the recipe trains `{task}`",
            hint=f"choose a base of `{task}`, or a recipe of `{opened.family}`: `ttstrain recipes`",
        )
    return opened


def identify(contents: Contents) -> OpenedCheckpoint | None:
    """Find the format, of any family, that identifies a file."""
    for _, upstream in formats():
        if upstream.sniff(contents):
            with _said_of(contents.path, upstream.name):
                return upstream.read(contents)
    return None


@contextmanager
def _said_of(path: Path, name: str) -> Iterator[None]:
    """Turn what a damaged or unknown layout makes of the code of a format into an error that names the file.

    A format knows a file by some of its names. What stands under the others may be missing, or of any type and shape.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(
            f"`{path}` has names of a file of {name}, but what stands under them is something else "
            f"({type(error).__name__}: {first_line(error)[:_SHOWN]})",
            hint="it is damaged, or of a version that ttstrain does not know",
        ) from error


def formats() -> Iterator[tuple[str, UpstreamFormat]]:
    """Yield every (family, format) of this installation."""
    for name in registry.names():
        for upstream in registry.load(name).load_formats():
            yield name, upstream


OpenFile = Callable[[str], OpenedCheckpoint]


def open_files(specs: Sequence[str], *, task: str, open_file: OpenFile | None = None) -> OpenedCheckpoint:
    """Open the files of a base, as a recipe names them, and what belongs to them; the later win, tensor by tensor."""
    parts: list[OpenedCheckpoint] = []
    for spec in specs:
        opened = open_checkpoint(resolve_base(spec), task=task) if open_file is None else open_file(spec)
        parts += [opened, *(open_checkpoint(path, task=task) for path in opened.partners)]
    return merge(parts)


def load_own(folder: Path, *, parts: Collection[str] | None = None, base: Sequence[str] = ()) -> store.Loaded:
    """Read one of our checkpoint folders, or some of its parts; one of adapters is made whole over its base.

    `base` names the files of the base at their new place. Raises CheckpointError where a file, or the base, is missing
    or not what it was.
    """
    return _whole(folder, store.load(folder, parts=parts), weights="read", base=base)


def _whole(folder: Path, loaded: store.Loaded, *, weights: over_base.Weights, base: Sequence[str] = ()) -> store.Loaded:
    task = loaded.meta.task
    return over_base.complete(
        folder, loaded, open_files=lambda specs: open_files(specs, task=task), weights=weights, named=base
    )


def open_own(folder: Path, *, damaged: Literal["refuse", "show"] = "refuse") -> OpenedCheckpoint:
    """Open one of our checkpoint folders, without holding its tensors; adapters are merged when they are read.

    Raises CheckpointError when its raw or EMA weights, or its base, are not what was written, or, with `show`, when
    they cannot be followed at all.
    """
    loaded = store.load_lazily(folder)
    if damaged == "refuse":
        refuse_damaged(folder, loaded.meta, names=store.weight_files(loaded.meta))
    _check_parts(folder, loaded.state)
    notes = loaded.meta.notes
    if loaded.meta.base is not None:
        notes = (*notes, f"it holds what was trained; the other weights are those of {loaded.meta.base.describe()}")
    try:
        loaded = _whole(folder, loaded, weights="stored")
    except CheckpointError as error:
        if damaged == "refuse":
            raise
        notes = (*notes, f"WARNING: only what it holds itself is shown: {error.message}")
    meta, state = loaded.meta, loaded.state
    label = label_of(meta.family, meta.model)
    weights, ema, adapters = state.get("task", {}), state.get("ema", {}).get("weights"), {}
    if meta.lora is not None:
        adapters = adapted.adapters(weights)
        weights = adapted.merged(weights, scaling=meta.lora.scaling)
        ema = None if ema is None else adapted.merged(ema, scaling=meta.lora.scaling)
        notes = (*notes, f"{meta.lora.describe()}: merged into the base's weights here")
    if (warning := never_better(meta, state)) is not None:
        notes = (*notes, warning)
    if trained_schedule_free(state):
        notes = (
            *notes,
            "trained with a schedule-free optimizer: these are the raw weights; evaluations used the averaged ones, "
            "which `ttstrain export` writes",
        )
    return OpenedCheckpoint(
        path=folder,
        family=meta.family,
        task=meta.task,
        kind="training",
        model=meta.task if label is None else label.model,
        version=f"ttstrain {meta.ttstrain}" if label is None else label.version,
        config={} if label is None else label.config,
        unknown=(),
        weights=weights,
        ema=ema,
        adapters=adapters,
        ema_step=meta.ema.step,
        groups=tuple(
            OptimizerGroup(f"{group.optimizer}/{group.name}", group.lr, group.weight_decay, group.parameters)
            for group in meta.groups
        ),
        schedule=meta.schedule,
        step=meta.step,
        buffers=frozenset() if label is None else label.buffers,
        section=meta.model,
        front_end=meta.versions,
        notes=notes,
    )


def _check_parts(folder: Path, state: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless weights are tensors by name and an optimizer's state is a table for each of them.

    A checksum says that a file is as it was written, not that ttstrain wrote it.
    """
    ema, optimizers = state.get("ema", {}), state.get("optimizers", {})
    weights = {"task": state.get("task", {}), "ema": ema.get("weights", {}) if isinstance(ema, Mapping) else None}
    for part, tree in weights.items():
        if not isinstance(tree, Mapping) or not all(isinstance(one, StoredTensor) for one in tree.values()):
            raise CheckpointError(f"`{folder}` is damaged: its part `{part}` does not hold tensors by name")
    tables = list(optimizers.values()) if isinstance(optimizers, Mapping) else [None]
    if not all(isinstance(table, Mapping) and _holds_tables(table) for table in tables):
        raise CheckpointError(f"`{folder}` is damaged: its part `optimizers` does not hold a table for each weight")


def _holds_tables(table: Mapping[str, Any]) -> bool:
    return all(isinstance(own, Mapping) for own in table.values())


def label_of(family: str, model: Mapping[str, Any]) -> Label | None:
    """Return the common name of a model from its family's format; None where the family has no format."""
    for name, upstream in formats():
        if name == family:
            return upstream.label(model)
    return None


def all_keys(tree: Tree) -> list[str]:
    """List the keys of a file and of the state dicts in it."""
    if not isinstance(tree, Mapping):
        return []
    inner = [label(key) for value in tree.values() if isinstance(value, Mapping) for key in value]
    return [*map(label, tree), *inner]


def describe_keys(tree: Tree) -> str:
    """Name the first things in a file, for an error."""
    if not isinstance(tree, Mapping):
        return "a single tensor" if isinstance(tree, StoredTensor) else f"a {type(tree).__name__}"
    shown = [f"`{label(key)[:_SHOWN]}`" for key in list(tree)[:3]]
    return ", ".join(shown) + (f" and {len(tree) - 3} more" if len(tree) > 3 else "") if shown else "nothing"


# ---------------------------------------------------------------- finding


@refused_as(CheckpointError)
def follow(path: Path, *, prefer: Literal["last", "best"] = "last") -> Path:
    """Resolve a run's folder, a `last` or `best` pointer, or a folder with one checkpoint file to the checkpoint.

    In an upstream project's folder, its family chooses the file.

    A path that is a checkpoint already is returned as it is. Raises CheckpointError when there is none, or several.
    """
    pointers.mend(path)
    if path.is_file() and path.name in (pointers.LAST, pointers.BEST) and path.parent.name == pointers.CHECKPOINTS:
        pointed = pointers.read_pointer(path.parent, path.name)
        assert pointed is not None
        return pointed
    if not path.is_dir() or pointers.is_checkpoint(path):
        return path
    root = path / pointers.CHECKPOINTS if (path / pointers.CHECKPOINTS).is_dir() else path
    if root == path and (chosen := choose_checkpoint(path)) is not None:
        return chosen.path
    pointed = pointers.read_pointer(root, prefer) or pointers.read_pointer(root, pointers.LAST)
    if pointed is not None:
        return pointed
    if root != path:
        raise CheckpointError(f"the run `{path}` has no checkpoint yet")
    return _only_file(path)


def _only_file(folder: Path) -> Path:
    """Choose the one checkpoint of a folder: an index before its shards, safetensors before their pickled twins."""
    for suffixes in ((INDEX,), SUFFIXES[:1], SUFFIXES[1:]):
        found = sorted(path for path in folder.iterdir() if path.name.endswith(suffixes) and path.is_file())
        if len(found) == 1:
            return found[0]
        if found:
            raise CheckpointError(
                f"`{folder}` holds {len(found)} checkpoints", hint=f"name one: {', '.join(path.name for path in found)}"
            )
    raise CheckpointError(f"`{folder}` holds no checkpoint", hint=f"looked for {', '.join(SUFFIXES)} and {META_FILE}")


@refused_as(CheckpointError)
def resolve_base(spec: str) -> Path:
    """Find what a recipe's `base:` names: `package:name`, `hf://owner/repo[@revision]/path`, a file, a folder, a run.

    A run's folder stands for its best checkpoint, or its last one where it has no best. A file on the Hub is
    downloaded once; `$HF_HOME` and `$HF_HUB_OFFLINE` are obeyed.
    """
    if spec.startswith(hub.HUB):
        return follow(hub.download(spec, preferred=SUFFIXES[:1], others=SUFFIXES[1:]), prefer="best")
    path = base_path(spec)
    pointers.mend(path)
    if not path.exists():
        raise CheckpointError(
            f"the base `{spec}` does not exist", hint="a file, a folder, a run, hf://owner/repo/path or package:NAME"
        )
    return follow(path, prefer="best")


def choose_checkpoint(folder: Path) -> Chosen | None:
    """Choose among the checkpoints of an upstream project's folder; None when no family knows it."""
    return next((chosen for known in registry.projects() if (chosen := known.choose(folder)) is not None), None)
