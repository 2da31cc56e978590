"""The mean of several checkpoints' weights, as a checkpoint of its own.

Averaging weights along a run, or of runs from one base, often generalizes better than each of them: stochastic weight
averaging (Izmailov et al. 2018, arXiv:1803.05407), model soups (Wortsman et al. 2022, arXiv:2203.05482).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ttstrain.checkpoint import pointers, store
from ttstrain.checkpoint.damage import refuse_damaged
from ttstrain.checkpoint.meta import Meta, check_vocab, kept_files
from ttstrain.checkpoint.upstream import follow, label_of
from ttstrain.checkpoint.worth import trained_schedule_free
from ttstrain.contract.checkpoint import differences
from ttstrain.errors import CheckpointError, RecipeError
from ttstrain.places import refused_as
from ttstrain.tensors.tensorfile import StoredTensor
from ttstrain.weights import Weights

NAMES: Mapping[Weights, str] = {"online": "raw", "ema": "EMA"}


@dataclass(frozen=True, slots=True)
class Averaged:
    """A checkpoint of mean weights."""

    folder: Path
    members: tuple[Path, ...]
    weights: Weights
    step: int  # of the furthest member
    num_tensors: int


@refused_as(CheckpointError)
def average(paths: Sequence[Path], out: Path, *, weights: Weights = "online") -> Averaged:
    """Write the mean of the raw or EMA weights of checkpoints of one model into the new folder `out`.

    A run stands for its last checkpoint. The mean is taken in float64 and stored in the weights' own dtype; counters
    and other integers are those of the last one named. Optimizer state is not averaged, so the result is a base and no
    checkpoint to resume. Raises RecipeError where `out` exists or fewer than two checkpoints are given,
    CheckpointError where they are not of one model.
    """
    if out.exists():
        raise RecipeError(f"`{out}` exists already", hint="nothing is overwritten: name another folder")
    folders = tuple(_checkpoint(path) for path in paths)
    if len(set(folders)) < 2:
        raise RecipeError("give two different checkpoints or more", hint="such as two `checkpoints/step-*` of a run")
    members = [_read(folder, weights) for folder in folders]
    for member in members[1:]:
        _check_alike(members[0], member)
    mean = dict(_mean([member.tensors for member in members]))
    if bad := [name for name, tensor in mean.items() if not bool(torch.isfinite(tensor).all())]:
        raise CheckpointError(
            f"the mean of `{bad[0]}` is not finite", hint="`ttstrain inspect-ckpt` shows which checkpoint has NaN"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    first = members[0]
    copies = kept_files(first.folder, first.meta)
    texts = {key: store.verified_text(first.folder, first.meta, copy.name) for key, copy in copies.items()}
    step = max(member.meta.step for member in members)
    store.save(out, {"task": mean}, _meta(first.meta, folders, weights=weights, step=step), texts=texts)
    return Averaged(out, folders, weights, step, len(mean))


@dataclass(frozen=True, slots=True)
class _Member:
    """One checkpoint that is averaged."""

    folder: Path
    meta: Meta
    tensors: Mapping[str, StoredTensor]


def _checkpoint(path: Path) -> Path:
    """Find the checkpoint that a path stands for. Raises CheckpointError where it is not one of ttstrain's."""
    found = follow(path) if path.exists() else path
    if not found.exists():
        raise CheckpointError(f"`{path}` does not exist", hint="name runs or checkpoints of ttstrain")
    if not pointers.is_checkpoint(found):
        raise CheckpointError(
            f"`{path}` is no checkpoint of ttstrain, so its settings cannot be compared with the others'",
            hint="average checkpoints of your runs: their folders are `checkpoints/step-*`",
        )
    return found.resolve()


def _read(folder: Path, weights: Weights) -> _Member:
    loaded = store.load_lazily(folder)
    meta = loaded.meta
    refuse_damaged(folder, meta, names=store.weight_files(meta))
    if meta.lora is not None:
        raise CheckpointError(
            f"`{folder}` holds {meta.lora.describe()}: the mean of adapters is not the mean of the nets that they make",
            hint="export each (`ttstrain export`) with its adapters merged, or train one run longer",
        )
    if weights == "online" and trained_schedule_free(loaded.state):
        raise CheckpointError(
            f"`{folder}` was trained with a schedule-free optimizer: it averages by itself, and its raw weights are "
            "not the ones that are evaluated",
            hint="`ttstrain export` writes the averaged weights",
        )
    if weights == "ema" and "ema" not in loaded.state:
        raise CheckpointError(f"`{folder}` holds no EMA weights", hint="leave `--weights ema` out")
    own = loaded.state["task"]
    averaged = {} if weights == "online" else loaded.state["ema"]["weights"]
    return _Member(folder, meta, {**own, **averaged})


def _check_alike(first: _Member, other: _Member) -> None:
    """Raise CheckpointError that names the first difference of two models."""
    pair = f"`{other.folder}` and `{first.folder}` are not of one model"
    if other.meta.task != first.meta.task:
        raise CheckpointError(f"{pair}: `{other.meta.task}` and `{first.meta.task}`")
    check_vocab(first.meta.versions, other.meta.versions, source=str(first.folder))
    for key, theirs, ours in differences(_net(other), _net(first)):
        raise CheckpointError(f"{pair}: `model.{key}` is {theirs} and {ours}")
    for one, two in ((first, other), (other, first)):
        if lacking := [name for name in one.tensors if name not in two.tensors]:
            raise CheckpointError(f"{pair}: `{two.folder}` lacks `{lacking[0]}` ({len(lacking):,} such tensors)")
    for name, tensor in first.tensors.items():
        own = other.tensors[name]
        if (own.shape, own.dtype) != (tensor.shape, tensor.dtype):
            raise CheckpointError(f"{pair}: `{name}` is {_shown(own)} and {_shown(tensor)}")


def _net(member: _Member) -> Mapping[str, Any]:
    """Return the settings that the weights depend on: with the same shapes another net may compute otherwise."""
    meta = member.meta
    label = label_of(meta.family, meta.model)
    settings = meta.model if label is None else label.config
    copied = kept_files(member.folder, meta)  # named by path; `check_vocab` compares what is in them
    return {key: value for key, value in settings.items() if key not in copied}


def _mean(stored: Sequence[Mapping[str, StoredTensor]]) -> Iterator[tuple[str, Tensor]]:
    for name in stored[0]:
        tensors = [own[name].read() for own in stored]
        if not tensors[0].dtype.is_floating_point:
            yield name, tensors[-1]
            continue
        total = torch.zeros(tensors[0].shape, dtype=torch.float64)
        for tensor in tensors:
            total += tensor
        yield name, (total / len(tensors)).to(tensors[0].dtype)


def _meta(first: Meta, members: Sequence[Path], *, weights: Weights, step: int) -> Meta:
    names = ", ".join(_name(member) for member in members)
    return Meta(
        family=first.family,
        task=first.task,
        model=first.model,
        recipe=first.recipe,
        step=step,
        notes=(f"the mean of the {NAMES[weights]} weights of {len(members)} checkpoints: {names}",),
        versions=first.versions,
    )


def _name(member: Path) -> str:
    """Name a checkpoint with its run."""
    inside = member.parent.name == pointers.CHECKPOINTS
    return f"{member.parent.parent.name}/{member.name}" if inside else member.name


def _shown(tensor: StoredTensor) -> str:
    shape = " x ".join(map(str, tensor.shape)) or "a scalar"
    return f"{shape} of {str(tensor.dtype).removeprefix('torch.')}"
