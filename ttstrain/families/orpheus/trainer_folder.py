"""Training state of a run of transformers' Trainer: optimizer, schedule and step.

`checkpoint-N/` holds trainer_state.json, optimizer.pt and scheduler.pt. They are pickles, parsed without executing. The
optimizer numbers its parameters: first all that decay, then norms, each in the model's own order (transformers 4 and 5,
`Trainer.create_optimizer`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ttstrain import documents
from ttstrain.contract.checkpoint import OptimizerGroup, SchedulePosition
from ttstrain.errors import CheckpointError
from ttstrain.tensors.contents import read_contents, refuse_unsafe
from ttstrain.tensors.optimizer_state import StoredGroup, number, read_optimizer
from ttstrain.tensors.tensorfile import StoredTensor

STATE, OPTIMIZER, SCHEDULER = "trainer_state.json", "optimizer.pt", "scheduler.pt"
ADAMW: Final = frozenset({"step", "exp_avg", "exp_avg_sq"})


@dataclass(frozen=True, slots=True)
class TrainerState:
    """The training state in a Trainer's folder."""

    step: int
    optimizer_state: Mapping[str, Mapping[str, Any]] | None
    groups: tuple[OptimizerGroup, ...]
    schedule: SchedulePosition | None
    notes: tuple[str, ...]


def read_trainer_state(folder: Path, weights: Mapping[str, StoredTensor], order: list[str]) -> TrainerState | None:
    """Read the training state beside a model's weights; None if no Trainer saved it.

    `order` lists the parameters as the model registers them. Raises CheckpointError for files that are damaged or
    would run code.
    """
    file = folder / STATE
    if not file.is_file():
        return None
    # Its log of losses may hold NaN, and grows with the run.
    state = documents.read_object(
        file, error=CheckpointError, keys={"global_step": int}, numbers="any", most_bytes=documents.MAX_TABLE
    )
    step, total = state["global_step"], state.get("max_steps", 0)
    if not isinstance(total, int):
        raise CheckpointError(f"`{file}` cannot be read: `max_steps` is no whole number")
    schedule, schedule_notes = _schedule(folder / SCHEDULER, step=step, total=total)
    if not (folder / OPTIMIZER).is_file():
        note = f"no `{OPTIMIZER}` beside it (FSDP and DeepSpeed keep theirs in shards): optimizer state starts empty"
        return TrainerState(step, None, (), schedule, (note, *schedule_notes))
    contents = read_contents(folder / OPTIMIZER)
    refuse_unsafe(contents)
    optimizer = read_optimizer(contents.tree)
    if optimizer is None:
        raise CheckpointError(f"`{contents.path}` is not the state of a torch optimizer")
    groups = optimizer.groups
    names = _names(order, [len(group.params) for group in groups])
    if names is None:
        counts = ", ".join(str(len(group.params)) for group in groups)
        note = f"optimizer state left out: its groups have {counts} parameters, the model {len(order)}"
        return TrainerState(step, None, (), schedule, (note, *schedule_notes))
    indices = [index for group in groups for index in group.params]
    optimizer_state = {name: dict(optimizer.of(index)) for index, name in zip(indices, names, strict=True)}
    notes = list(schedule_notes)
    known: Mapping[str, Mapping[str, Any]] | None = optimizer_state
    if misfit := next((name for name in names if not _fits(optimizer_state[name], weights[name])), None):
        keys = ", ".join(optimizer_state[misfit])
        notes.append(f"optimizer state left out: `{misfit}` has no AdamW state of its shape ({keys})")
        known = None
    return TrainerState(step, known, tuple(_groups(groups, names, weights)), schedule, tuple(notes))


def _names(order: list[str], sizes: list[int]) -> list[str] | None:
    """Return the parameters in the optimizer's order; None when its groups are not a Trainer's."""
    norms = [name for name in order if "norm" in name]
    decaying = [name for name in order if "norm" not in name]
    if sizes == [len(decaying), len(norms)]:
        return [*decaying, *norms]
    return order if sizes == [len(order)] else None


def _fits(state: Mapping[str, Any], weight: StoredTensor) -> bool:
    return set(state) in (set(), ADAMW) and all(
        isinstance(value, StoredTensor) and value.shape == weight.shape for key, value in state.items() if key != "step"
    )


def _groups(
    groups: Sequence[StoredGroup], names: list[str], weights: Mapping[str, StoredTensor]
) -> list[OptimizerGroup]:
    found, place = [], 0
    for order, group in enumerate(groups):
        own = names[place : place + len(group.params)]
        place += len(own)
        found.append(
            OptimizerGroup(
                name="default" if len(groups) == 1 else ("decay", "no_decay")[order],
                lr=group.lr,
                weight_decay=group.weight_decay,
                parameters=sum(weights[name].numel for name in own),
            )
        )
    return found


def _schedule(path: Path, *, step: int, total: int) -> tuple[SchedulePosition | None, list[str]]:
    """Read the LR of the next update from a LambdaLR; the Trainer knows how many there are."""
    if not path.is_file():
        return None, [f"no `{SCHEDULER}` beside it: the position in its LR schedule is unknown"]
    contents = read_contents(path)
    refuse_unsafe(contents)
    tree = contents.tree
    lrs = tree.get("_last_lr") if isinstance(tree, Mapping) else None
    if not isinstance(lrs, list | tuple) or not lrs or any(number(lr) is None for lr in lrs):
        return None, [f"`{SCHEDULER}` is of an unsupported kind: the position in its LR schedule is unknown"]
    ended = 0 < total <= step
    schedule = SchedulePosition(
        position=step,
        total=total or None,
        ended=ended,
        lr_next=None if ended else max(number(lr) or 0.0 for lr in lrs),
    )
    return schedule, [f"its LR schedule ended at step {step:,}: this run's own schedule applies"] if ended else []
