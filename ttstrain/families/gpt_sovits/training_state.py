"""Training state of an upstream run: optimizer state by parameter name, LRs, step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ttstrain.contract.checkpoint import OptimizerGroup, SchedulePosition
from ttstrain.tensors.optimizer_state import StoredGroup, counter, number, read_optimizer
from ttstrain.tensors.tensorfile import StoredTensor

ADAMW = frozenset({"step", "exp_avg", "exp_avg_sq"})
SCALED_ADAM = frozenset({"step", "delta", "exp_avg_sq", "param_rms", "scale_exp_avg_sq", "scale_grads"})
_SHARED = frozenset({"model_norms", "model_norm_threshold"})  # of its clipping, about all parameters: kept with one
_COUNTED = frozenset({"num_clipped"})  # for a line in upstream's log, from its thousandth update on
_SIZES = frozenset({"param_rms", "scale_exp_avg_sq", "scale_grads"})  # one number per tensor; scalars have none
# Upstream gives the text side of the VAE groups of their own, in this order after the rest: its s2_train.
_TEXT_GROUPS = {
    "text_embedding": "vae.enc_p.text_embedding.",
    "encoder_text": "vae.enc_p.encoder_text.",
    "mrte": "vae.enc_p.mrte.",
}
_MOST_EPOCHS = 1 << 31
LR_DECAY = 0.999875  # of upstream's ExponentialLR, per epoch

Tensors = Mapping[str, StoredTensor]
OptimizerState = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class TrainingState:
    """What a training file has besides weights."""

    optimizer_state: OptimizerState | None = None
    groups: tuple[OptimizerGroup, ...] = ()
    schedule: SchedulePosition | None = None
    step: int | None = None
    notes: tuple[str, ...] = ()


# ---------------------------------------------------------------- the VAE's AdamW


def pair_state(tree: Mapping[str, Any], weights: Tensors, *, parameters: Sequence[str]) -> TrainingState:
    """Read `{model, iteration, optimizer, learning_rate}`; `parameters` are in the order of upstream's modules.

    The optimizer numbers its parameters group by group. State that does not fit in number or shape is left out, with a
    note.
    """
    optimizer = read_optimizer(tree["optimizer"])
    if optimizer is None:
        return TrainingState(notes=("optimizer state left out: `optimizer` is not the state of a torch optimizer",))
    named = _grouped(parameters, len(optimizer.groups))
    indices = [group.params for group in optimizer.groups]
    notes: list[str] = []
    optimizer_state: dict[str, Mapping[str, Any]] | None = None
    if [len(own) for own in named.values()] != [len(own) for own in indices]:
        notes.append("optimizer state left out: its parameter groups are not those of upstream's trainer")
    else:
        order = [index for own in indices for index in own]
        names = [name for own in named.values() for name in own]
        optimizer_state = {name: optimizer.of(index) for name, index in zip(names, order, strict=True)}
        if misfit := next((name for name, state in optimizer_state.items() if not _fits(state, weights[name])), None):
            notes.append(f"optimizer state left out: `{misfit}` has no AdamW state of its shape")
            optimizer_state = None
    groups = tuple(
        OptimizerGroup(
            name=name,
            lr=group.lr,
            weight_decay=group.weight_decay,
            parameters=sum(weights[key].numel for key in named[name]) if optimizer_state is not None else 0,
        )
        for name, group in zip(named, optimizer.groups, strict=True)
    )
    step = updates(optimizer.states)
    epoch = tree.get("iteration")
    if isinstance(epoch, int):
        notes.append(f"epoch {epoch}, {'no update' if step is None else f'{step:,} updates'}")
    notes += _decay_note(optimizer.groups[0], epoch)
    return TrainingState(
        optimizer_state=optimizer_state,
        groups=groups,
        schedule=_endless(step, groups),
        step=step,
        notes=tuple(notes),
    )


def _grouped(parameters: Sequence[str], count: int) -> dict[str, list[str]]:
    """Divide the parameters into upstream's groups, in its order."""
    if count == 1:
        return {"base": list(parameters)}
    if count != len(_TEXT_GROUPS) + 1:
        return {f"group-{number}": [] for number in range(count)}
    text = {group: [name for name in parameters if name.startswith(start)] for group, start in _TEXT_GROUPS.items()}
    in_text = {name for names in text.values() for name in names}
    return {"base": [name for name in parameters if name not in in_text], **text}


def _fits(state: Mapping[str, Any], weight: StoredTensor) -> bool:
    return set(state) <= ADAMW and all(
        isinstance(value, StoredTensor) and value.shape == weight.shape for key, value in state.items() if key != "step"
    )


def updates(states: Mapping[Any, Mapping[str, Any]]) -> int | None:
    """Return how often the optimizer has stepped. Upstream's files count epochs only."""
    counted = (counter(state.get("step")) for state in states.values())
    return max((count for count in counted if count is not None), default=None)


def _decay_note(first: StoredGroup, epoch: Any) -> Iterator[str]:
    initial, lr = first.initial_lr, first.lr
    if type(epoch) is not int or not 0 <= epoch < _MOST_EPOCHS or initial is None or lr >= initial:
        return
    yield (
        f"its LR has decayed to {lr / initial:.5f} of {initial:g}; upstream's resume would apply the same decay "
        f"again, to {lr * LR_DECAY ** (epoch + 1):.4g}. `ttstrain resume` takes the LR from the recipe's schedule"
    )


def _endless(step: int | None, groups: Sequence[OptimizerGroup]) -> SchedulePosition | None:
    if step is None:
        return None
    lr = max((group.lr for group in groups), default=None)
    return SchedulePosition(position=step, total=None, ended=False, lr_next=lr)


# ---------------------------------------------------------------- the GPT's ScaledAdam, in Lightning's file


def lightning_state(tree: Mapping[str, Any], weights: Tensors) -> TrainingState:
    """Read a Lightning checkpoint of the GPT's training: one ScaledAdam over all parameters, stacked by shape."""
    notes: list[str] = []
    step = counter(tree.get("global_step"))
    epoch = tree.get("epoch")
    if isinstance(epoch, int):
        notes.append(f"epoch {epoch + 1}, {'an unknown number of' if step is None else f'{step:,}'} updates")
    optimizers = tree.get("optimizer_states")
    known = optimizers if isinstance(optimizers, list | tuple) else ()
    optimizer = read_optimizer(known[0]) if len(known) == 1 else None
    if optimizer is None:
        return TrainingState(
            step=step, notes=(*notes, "optimizer state left out: `optimizer_states` is not that of one optimizer")
        )
    group = optimizer.groups[0]
    optimizer_state = unstacked(optimizer.states, weights)
    if optimizer_state is None:
        notes.append("optimizer state left out: it is not ScaledAdam's state of these parameters")
    groups = (
        OptimizerGroup(
            name="default",
            lr=group.lr,
            weight_decay=group.weight_decay,
            parameters=sum(stored.numel for stored in weights.values()),
        ),
    )
    notes.append("trained with ScaledAdam, whose LR is relative to each tensor's size")
    return TrainingState(
        optimizer_state=optimizer_state,
        groups=groups,
        schedule=_endless(step, groups),
        step=step,
        notes=tuple(notes),
    )


def unstacked(states: Mapping[int, Mapping[str, Any]], weights: Tensors) -> OptimizerState | None:
    """Give every parameter its own share of ScaledAdam's state; None where it is not of these parameters.

    Upstream stacks parameters of one type and shape, in their order, and keeps a stack's state with its first.
    Tensors stay in their file.
    """
    stacks: dict[Any, list[tuple[int, str]]] = {}
    for index, (name, stored) in enumerate(weights.items()):
        stacks.setdefault((stored.dtype, stored.shape), []).append((index, name))
    found: dict[str, Mapping[str, Any]] = {}
    for members in stacks.values():
        state = states.get(members[0][0], {})
        shape = weights[members[0][1]].shape
        if state and not _is_stack(state, len(members), shape):
            return None
        for place, (_, name) in enumerate(members):
            found[name] = _share(state, place, scalar=math.prod(shape) == 1)
    shared = {key: state[key] for state in states.values() for key in _SHARED if key in state}
    if shared:
        first = next(iter(weights))
        found[first] = {**found[first], **shared}
    return {name: found[name] for name in weights}


def _is_stack(state: Mapping[str, Any], members: int, shape: tuple[int, ...]) -> bool:
    needed = SCALED_ADAM - _SIZES
    if not needed <= set(state) <= SCALED_ADAM | _SHARED | _COUNTED or counter(state["step"]) is None:
        return False
    sized = {key: state[key] for key in (*_SIZES, "delta", "exp_avg_sq") if key in state}
    if not all(isinstance(stored, StoredTensor) for stored in sized.values()):
        return False
    if any(sized[key].shape != (members, *shape) for key in ("delta", "exp_avg_sq")):
        return False
    if math.prod(shape) == 1:
        return True
    return set(state) >= _SIZES and _fits_sizes(sized, members, len(shape))


def _fits_sizes(sized: Tensors, members: int, dims: int) -> bool:
    """Tell whether what ScaledAdam keeps of each tensor's size is one number for each member."""
    single = (members, *(1,) * dims)
    grads = sized["scale_grads"].shape
    return sized["param_rms"].shape == sized["scale_exp_avg_sq"].shape == single and grads[1:] == single


def _share(state: Mapping[str, Any], place: int, *, scalar: bool) -> dict[str, Any]:
    """Return one parameter's part of a stack's state; a size is one number, whatever dimensions it is kept with."""
    if not state:
        return {}
    share: dict[str, Any] = {"step": torch.tensor(number(state["step"]))}
    share |= {key: _taken(state[key], place) for key in ("delta", "exp_avg_sq")}
    if not scalar:
        share |= {key: _flat(_taken(state[key], place), 0) for key in ("param_rms", "scale_exp_avg_sq")}
        share["scale_grads"] = _flat(_taken(state["scale_grads"], place, dim=1), 1)
    return share


def _taken(stored: StoredTensor, place: int, *, dim: int = 0) -> StoredTensor:
    """Return one slice of a stored tensor along a dimension, without reading it."""
    offset = stored.offset + place * stored.strides[dim] * stored.dtype.itemsize
    shape = stored.shape[:dim] + stored.shape[dim + 1 :]
    strides = stored.strides[:dim] + stored.strides[dim + 1 :]
    return replace(stored, offset=offset, shape=shape, strides=strides)


def _flat(stored: StoredTensor, dims: int) -> StoredTensor:
    """Leave the first dimensions of a stored tensor; the rest have one element each."""
    return replace(stored, shape=stored.shape[:dims], strides=stored.strides[:dims])
