"""Inspect a checkpoint: what it is and whether it is intact. Executes nothing, holds no tensor in memory."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ttstrain import registry
from ttstrain.checkpoint import pointers, store
from ttstrain.checkpoint.damage import faults
from ttstrain.checkpoint.meta import Meta, check_vocab, compare_front_ends
from ttstrain.checkpoint.moved import Gap, ModuleChange, by_module
from ttstrain.checkpoint.reading import retried
from ttstrain.checkpoint.upstream import all_keys, describe_keys, follow, identify, open_own
from ttstrain.contract.checkpoint import OpenedCheckpoint, SchedulePosition
from ttstrain.errors import CheckpointError, RecipeError, UserError
from ttstrain.places import refused_as
from ttstrain.tensors import pickle_names, tensorfile, unpickle
from ttstrain.tensors.contents import Contents, read_contents
from ttstrain.tensors.tensorfile import StoredTensor

_SHOWN = 3  # names of unknown classes in a note
_TRAINING_ONLY = ("optimizer", "lr_scheduler", "callbacks", "loops")  # entries of unknown files that are no weights


@dataclass(frozen=True, slots=True)
class GroupReport:
    """A parameter group; `lr` is that of its next update."""

    name: str
    lr: float
    weight_decay: float
    parameters: int


@dataclass(frozen=True, slots=True)
class ScheduleReport:
    """Where the schedule stands, in updates."""

    position: int
    ended: bool
    lr_next: float | None


@dataclass(frozen=True, slots=True)
class EmaReport:
    """The EMA weights; `distance` is ||ema - raw|| / ||raw||."""

    present: bool
    step: int | None = None
    distance: float | None = None


@dataclass(frozen=True, slots=True)
class ModuleReport:
    """A part of the model by its first name."""

    name: str
    parameters: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """Everything that `inspect-ckpt` shows; the fields are the keys of its JSON."""

    path: str
    family: str | None
    kind: str
    model: str | None
    version: str | None
    step: int | None
    tensors: int
    parameters: int
    dtypes: dict[str, int]  # dtype -> number of tensors
    groups: list[GroupReport]
    schedule: ScheduleReport | None
    ema: EmaReport
    nonfinite: list[str]
    zero: list[str]
    damaged: list[str]  # files of our own checkpoint that are not what was written
    pickle_globals: list[str]
    pickle_verdict: pickle_names.FileVerdict | None  # risk of unpickling it; None where nothing is pickled
    unsafe: bool
    modules: list[ModuleReport]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class TensorReport:
    """One tensor's numbers; `low`, `high` and `rms` are None where they are not finite or there are none."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    low: float | None
    high: float | None
    rms: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Change:
    """The relative change of a tensor: ||b - a|| / ||a||, None if that is not a number."""

    name: str
    distance: float | None


@dataclass(frozen=True, slots=True)
class Difference:
    """The differences between two checkpoints' weights."""

    a: str
    b: str
    only_a: list[str]
    only_b: list[str]
    reshaped: list[str]
    equal: int
    changed: list[Change]  # furthest first
    distance: float | None  # over all tensors that both hold
    modules: list[ModuleChange]  # in the order of their names

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


# ---------------------------------------------------------------- one checkpoint


@refused_as(CheckpointError)
def inspect(path: Path) -> Inspection:
    """Inspect a checkpoint file of any trainer, one of our checkpoints, or a run by its last one.

    Raises CheckpointError when it cannot be read. An unsafe pickle is read: its names are reported, nothing runs.
    """
    return retried(path, lambda: _inspect(path))


def _inspect(path: Path) -> Inspection:
    view = _open(path)
    checkpoint = view.checkpoint
    health = _examine(view)
    counted = [stored for name, stored in view.weights.items() if name not in view.buffers]
    ema = EmaReport(present=False)
    if checkpoint is not None and checkpoint.ema is not None:
        alone = checkpoint.ema is checkpoint.weights  # the file holds EMA weights only
        distance = None if alone else tensorfile.relative_distance(checkpoint.ema, checkpoint.weights)
        ema = EmaReport(present=True, step=checkpoint.ema_step, distance=_number(distance))
    verdict = pickle_names.judge(view.globals) if view.pickled else None
    return Inspection(
        path=str(path),
        family=None if checkpoint is None else checkpoint.family,
        kind="unknown" if checkpoint is None else checkpoint.kind,
        model=None if checkpoint is None else checkpoint.model,
        version=None if checkpoint is None else checkpoint.version,
        step=None if checkpoint is None else checkpoint.step,
        tensors=len(view.weights),
        parameters=sum(stored.numel for stored in counted),
        dtypes=dict(Counter(_dtype(stored) for stored in view.weights.values()).most_common()),
        groups=[] if checkpoint is None else [GroupReport(**asdict(group)) for group in checkpoint.groups],
        schedule=None if checkpoint is None else _schedule(checkpoint.schedule),
        ema=ema,
        nonfinite=health.nonfinite,
        zero=health.zero,
        damaged=list(view.damaged),
        pickle_globals=list(view.globals),
        pickle_verdict=verdict,
        unsafe=verdict == "unsafe",
        modules=_modules(view),
        notes=[*view.notes, *(f"DAMAGED: {fault}" for fault in view.damaged.values()), *_pickle_notes(view.globals)],
    )


@refused_as(CheckpointError)
def list_tensors(path: Path, pattern: str) -> list[TensorReport]:
    """Inspect every tensor whose name matches a shell pattern, including EMA weights and optimizer state.

    Raises UserError when no name matches.
    """
    view = _open(path)
    every = {**view.weights, **view.others}
    matching = {name: stored for name, stored in every.items() if fnmatchcase(name, pattern)}
    if not matching:
        raise UserError(f"no tensor of `{path}` matches `{pattern}`", hint=f"names look like `{next(iter(every), '')}`")
    return [_tensor_report(name, stored) for name, stored in matching.items()]


@refused_as(CheckpointError)
def diff(a: Path, b: Path) -> Difference:
    """Compare the weights of two checkpoints tensor by tensor."""
    first, second = _open(a).weights, _open(b).weights
    common = [name for name in first if name in second]
    comparable = [name for name in common if first[name].shape == second[name].shape]
    gaps = {name: Gap(*tensorfile.gap_and_size(second[name], first[name])) for name in comparable}
    changed = [Change(name, gap.relative) for name, gap in gaps.items() if gap.relative != 0]
    return Difference(
        a=str(a),
        b=str(b),
        only_a=[name for name in first if name not in second],
        only_b=[name for name in second if name not in first],
        reshaped=[name for name in common if first[name].shape != second[name].shape],
        equal=len(comparable) - len(changed),
        changed=sorted(changed, key=lambda change: -math.inf if change.distance is None else -change.distance),
        distance=_overall([gaps[name] for name in comparable if first[name].dtype.is_floating_point]),
        modules=by_module(gaps, {name: first[name].numel for name in comparable}),
    )


def _overall(gaps: Sequence[Gap]) -> float | None:
    gap = size = 0.0
    for one in gaps:
        gap, size = math.hypot(gap, one.gap), math.hypot(size, one.size)
    return _number(gap / size) if size > 0 else None


# ---------------------------------------------------------------- one way to look at every kind


@dataclass(frozen=True, slots=True)
class _View:
    checkpoint: OpenedCheckpoint | None  # None when no family knows the file
    weights: Mapping[str, StoredTensor]
    others: Mapping[str, StoredTensor]  # EMA and optimizer tensors: `ema/<name>`, `optimizer/<name>/exp_avg`, ...
    buffers: frozenset[str]
    globals: tuple[str, ...]
    pickled: bool
    notes: tuple[str, ...]
    damaged: Mapping[str, str] = field(default_factory=dict)  # file of our checkpoint -> what is wrong with it


def _open(path: Path) -> _View:
    found = follow(path)
    if found.is_dir():
        return _own_view(path, found)
    contents = read_contents(found)
    inside = () if found == path else (f"`{found.name}` of the folder",)
    checkpoint = identify(contents)
    if checkpoint is None:
        return _unknown_view(contents, inside)
    ema = {} if checkpoint.ema is None or checkpoint.ema is checkpoint.weights else checkpoint.ema
    others = {f"ema/{name}": stored for name, stored in ema.items()} | _named(
        "optimizer", checkpoint.optimizer_state or {}
    )
    lacking = [entry.remark for entry in checkpoint.absent if entry.remark]
    notes = (*checkpoint.notes, *checkpoint.guesses, *lacking, *inside)
    return _View(checkpoint, checkpoint.weights, others, checkpoint.buffers, contents.globals, contents.pickled, notes)


def _own_view(path: Path, folder: Path) -> _View:
    checkpoint = open_own(folder, damaged="show")
    loaded = store.load_lazily(folder)
    others = _named("adapter", checkpoint.adapters)
    for part, tree in loaded.state.items():
        if part != "task":
            others |= _named(part, tree if part != "ema" or checkpoint.ema is None else checkpoint.ema)
    for rank, tree in enumerate(loaded.per_rank):
        others |= _named(f"rank-{rank}", tree)
    notes = [*checkpoint.notes, *_front_end_notes(loaded.meta)]
    notes += [f"recipe `{loaded.meta.recipe}`, written {loaded.meta.time[:19].replace('T', ' ')} UTC"]
    if folder != path:
        notes += _run_notes(folder)
    damaged = faults(folder, loaded.meta)
    return _View(checkpoint, checkpoint.weights, others, checkpoint.buffers, (), False, tuple(notes), damaged)


def _run_notes(folder: Path) -> Iterator[str]:
    """Yield notes on which of a run's checkpoints this is, and on missing or damaged pointers."""
    root = folder.parent
    yield f"this is `{folder.name}` of {len(pointers.list_checkpoints(root))} checkpoints"
    if pointers.pointed(root, pointers.LAST) is None:
        yield f"WARNING: `{root / pointers.LAST}` is missing or damaged; the newest checkpoint is used instead"
    try:
        if (best := pointers.read_pointer(root, pointers.BEST)) is not None:
            yield f"the best is `{best.name}`"
    except CheckpointError as error:
        yield f"WARNING: {error.message}"


def _front_end_notes(meta: Meta) -> Iterator[str]:
    """Yield notes on the text front end of the training, and on how the one of this machine differs."""
    if not meta.versions:
        return
    versions = (f"{name} {version[:19]}" for name, version in meta.versions.items())
    yield f"text front end: {', '.join(versions)}"
    spec = registry.find_task(meta.task)
    try:
        front_end = spec.planner(spec.read_model(meta.model)).front_end()
        now = {} if front_end is None else front_end.versions
        yield from compare_front_ends(meta.versions, now)
        check_vocab(meta.versions, now, source="the checkpoint")
    except RecipeError as error:
        yield f"WARNING: texts cannot be tokenized here as in training: {error.message}"
    except CheckpointError as error:
        yield f"WARNING: {error.message}"


def _unknown_view(contents: Contents, notes: tuple[str, ...]) -> _View:
    weights: dict[str, StoredTensor] = {}
    others: dict[str, StoredTensor] = {}
    for path, leaf in unpickle.walk(contents.tree):
        if isinstance(leaf, StoredTensor):
            target = others if path and path[0].startswith(_TRAINING_ONLY) else weights
            target["/".join(path) or "tensor"] = leaf
    stranger = registry.identify_unknown(all_keys(contents.tree))
    unknown = f"this file matches no family of ttstrain; it holds {describe_keys(contents.tree)}"
    if stranger is not None:
        unknown = f"this {stranger.what}; {stranger.hint}"
    return _View(None, weights, others, frozenset(), contents.globals, contents.pickled, (unknown, *notes))


def _named(prefix: str, tree: Any) -> dict[str, StoredTensor]:
    return {"/".join((prefix, *path)): leaf for path, leaf in unpickle.walk(tree) if isinstance(leaf, StoredTensor)}


# ---------------------------------------------------------------- the report


@dataclass(frozen=True, slots=True)
class _Health:
    nonfinite: list[str]
    zero: list[str]


def _examine(view: _View) -> _Health:
    """Check every number of the file once. Zeros are reported for weights only: new optimizer state is zero."""
    nonfinite: list[str] = []
    zero: list[str] = []
    for name, stored in [*view.weights.items(), *view.others.items()]:
        if not (stored.dtype.is_floating_point or stored.dtype.is_complex):
            continue
        found = tensorfile.value_range(stored)
        if found is not None and not found.finite:
            nonfinite.append(name)
        if found is not None and found.zero and name in view.weights:
            zero.append(name)
    return _Health(nonfinite, zero)


def _modules(view: _View) -> list[ModuleReport]:
    """Sum parameters by the first part of their names, below what all names have in common."""
    names = [name for name in view.weights if name not in view.buffers]
    roots = {name.partition(".")[0] for name in names}
    common = f"{roots.pop()}." if len(roots) == 1 else ""
    totals: Counter[str] = Counter()
    for name in names:
        *containers, key = name.removeprefix(common).split("/")[:2]  # unknown files: `weight/dec.conv.bias`
        totals["/".join((*containers, key.partition(".")[0]))] += view.weights[name].numel
    return [ModuleReport(name, count) for name, count in totals.items()]


def _schedule(schedule: SchedulePosition | None) -> ScheduleReport | None:
    if schedule is None:
        return None
    return ScheduleReport(position=schedule.position, ended=schedule.ended, lr_next=schedule.lr_next)


def _pickle_notes(names: Sequence[str]) -> Iterable[str]:
    if unsafe := pickle_names.unsafe_globals(names):
        yield f"UNSAFE: its pickle calls {', '.join(unsafe)}. Nothing was executed; never load it with torch.load"
    unknown = [name for name in names if pickle_names.classify(name) == "unknown"]
    if unknown:
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        yield (
            f"its pickle has names that ttstrain does not know and that may run code when other programs load it: "
            f"{', '.join(unknown[:_SHOWN])}{more}. Nothing was executed here"
        )


def _tensor_report(name: str, stored: StoredTensor) -> TensorReport:
    found = tensorfile.value_range(stored)
    return TensorReport(
        name=name,
        dtype=_dtype(stored),
        shape=stored.shape,
        low=None if found is None else _number(found.low),
        high=None if found is None else _number(found.high),
        rms=None if found is None else _number(tensorfile.root_mean_square(stored)),
    )


def _dtype(stored: StoredTensor) -> str:
    return str(stored.dtype).removeprefix("torch.")


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
