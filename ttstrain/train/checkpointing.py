"""Saving a run as a checkpoint, and restoring it."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ttstrain.checkpoint import store
from ttstrain.checkpoint.meta import BaseMeta, EmaMeta, GroupMeta, LoraMeta, Meta, read_meta
from ttstrain.contract.checkpoint import SchedulePosition
from ttstrain.errors import CheckpointError, DivergedError, FolderLostError
from ttstrain.modules import lora
from ttstrain.modules.nf4 import bits_of, outlines
from ttstrain.recipe.faults import injected_note
from ttstrain.shell import quoted
from ttstrain.tensors.loading import load_weights
from ttstrain.tensors.sharded import gathered
from ttstrain.train.guard import Incident
from ttstrain.train.incidents import tell
from ttstrain.train.run import Run
from ttstrain.train.snapshot import PER_RANK, Snapshots
from ttstrain.train.spent import SAVE

LARGE = frozenset({"task", "optimizers", "ema"})  # the parts of a state that hold a model's tensors


def save(
    run: Run,
    *,
    best: bool = False,
    metrics: Mapping[str, float] | None = None,
    held: Mapping[str, Any] | None = None,
    last: bool = False,
) -> Path:
    """Save the run's current state as a checkpoint and return its folder. All ranks call it; the main one writes.

    A state that cannot be written is an incident, after which the run goes on; with `last` it is an error.
    `held` is a copy of the current state in host memory, if there is one: its tensors are not copied again.
    Other ranks contribute the states of their random generators. Where the save overwrites the best checkpoint, made at
    this step before a rollback, the best is reset with a note. Raises DivergedError where the ranks hold different
    weights, FolderLostError, once the state is saved beside it, where the run's folder is gone.
    """
    if differing := run.ranks.differ(bits_of(run.task)):
        more = f" and {len(differing) - 1:,} more" if len(differing) > 1 else ""
        raise DivergedError(
            f"at step {run.progress.step} the processes hold different values in `{differing[0]}`{more}; "
            "nothing was saved",
            hint="the weights drifted apart: a faulty GPU, or an update that draws other random numbers on each rank; "
            "earlier checkpoints are good",
        )
    look_for_failure(run, wait=True)
    if run.ranks.broadcast(run.store.failed):
        best = best or _best_on_disk(run, metrics or {})
        run.store.failed = False
    if run.best.lost_by_saving(run.progress.step) and not best:
        best = _best_anew(run, metrics or {}, step=run.progress.step)
    generators = run.ranks.gather(run.rng.state_dict())
    if run.ranks.broadcast(run.folder_is_lost()):
        raise _save_beside(run, generators, describe(run, metrics=metrics or {}))
    state = shared(run.state.state_dict())
    if run.shards is not None:
        state = gathered(state, keep=run.ranks.main)
        held = state
    if run.ranks.main:
        with run.spent.on(SAVE):
            try:
                run.store.save(
                    run.progress.step,
                    state,
                    describe(run, metrics=metrics or {}),
                    best=best,
                    per_rank=generators,
                    held={name: tree for name, tree in (held or {}).items() if name in LARGE},
                    hook=None if run.injector is None else run.injector.at_save(run.progress.step),
                )
            except CheckpointError as error:  # of a write that is not in the background
                if last:
                    raise
                run.store.failed = True
                _go_on_after(run, error)
    return run.store.folder(run.progress.step)


def settle(run: Run, *, metrics: Mapping[str, float] | None = None) -> None:
    """Return once the run's state is on disk: where its last save has failed, save once more. All ranks call it.

    Raises CheckpointError where that fails too.
    """
    if run.ranks.main and (error := run.store.failure(wait=True)) is not None:
        _tell_of_failure(run, error, then="it is saved once more")
    if not run.ranks.broadcast(run.store.failed):
        return
    save(run, metrics=metrics, last=True)
    run.store.wait()


def look_for_failure(run: Run, *, wait: bool) -> None:
    """Tell of a save that has failed, in the main process; with `wait`, once nothing is being written.

    Raises CheckpointError where the run has no checkpoint yet: it is young, and all that follows could be lost.
    """
    if run.ranks.main and (error := run.store.failure(wait=wait)) is not None:
        _go_on_after(run, error)


def _go_on_after(run: Run, error: CheckpointError) -> None:
    last = run.store.last()
    if last is None:
        raise error
    _tell_of_failure(run, error, then=f"the run saves again when that is due next; {last.name} is its last")


def _tell_of_failure(run: Run, error: CheckpointError, *, then: str) -> None:
    notes = [error.message, *([error.hint] if error.hint else []), then]
    incident = Incident(
        step=run.progress.step,
        kind="failed_save",
        action="go on",
        optimizer=None,
        loss=None,
        grad_norm=None,
        lrs={},
        clips=[],
        notes=notes,
    )
    tell(run, incident)


def _best_on_disk(run: Run, values: Mapping[str, float]) -> bool:
    """Let the best so far, if its save has failed, be the one on disk; return whether `values` are better."""
    if not run.best.step or best_is_on_disk(run):  # of step 0, which is the base, there is no checkpoint
        return False
    found = run.ranks.broadcast(_held_best(run) if run.ranks.main else None)
    run.best.forget()
    if found is not None and run.best.metric is not None:
        run.best.take(found[0], {run.best.metric: found[1]})
    if not run.best.improves(values):
        return False
    run.best.take(run.progress.step, values)
    return True


def _held_best(run: Run) -> tuple[int, float] | None:
    """Read step and value of the best checkpoint on disk; None where there is none."""
    try:
        folder = run.store.best()
        meta = None if folder is None else read_meta(folder)
    except CheckpointError:
        return None
    value = None if meta is None or run.best.metric is None else meta.metrics.get(run.best.metric)
    return None if meta is None or value is None else (meta.step, value)


def best_is_on_disk(run: Run) -> bool:
    """Tell, on every rank, whether the best checkpoint so far is on disk with the value it was measured at."""
    best, found = run.best, False
    look_for_failure(run, wait=True)
    if run.ranks.main and best.step is not None and best.metric is not None:
        found = run.store.holds(best.step, best.metric, best.value)
    return run.ranks.broadcast(found)


def keep_best_after(run: Run, step: int) -> list[str]:
    """After a rollback to `step`: retain a later best where its checkpoint is on disk, else reset it; return notes."""
    best = run.best
    if best.step is None or best.step <= step:
        return []
    name, value = run.store.folder(best.step).name, best.value
    if best_is_on_disk(run):
        best.of_left_course = True
        return [f"{name} stays the best so far ({value:.4f})"]
    best.forget()
    return [f"{name}, the best so far ({value:.4f}), is not on disk: the best is reset"]


def _best_anew(run: Run, values: Mapping[str, float], *, step: int) -> bool:
    """Reset the best, whose checkpoint is about to be overwritten; return whether the new checkpoint is the best."""
    lost = run.best.value
    run.best.forget()
    measured = run.best.improves(values)
    if measured:
        run.best.take(step, values)
    else:
        run.store.forget_best()
    if run.ranks.main:
        now = f"{run.best.value:.4f}" if measured else "not measured"
        run.trackers.note(
            f"WARNING: {run.store.folder(step).name} was the best so far ({lost:.4f}), from before the run went back; "
            f"this save replaces it ({now}), and the best is reset"
        )
    return measured


def shared(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a state that are the same on every rank."""
    return {name: tree for name, tree in content.items() if name != PER_RANK}


def _save_beside(run: Run, generators: Sequence[Any], meta: Meta) -> FolderLostError:
    """Save the run's current state beside its lost folder; return the error to raise on every rank."""
    state = gathered(shared(run.state.state_dict()), keep=run.ranks.main)
    place = write_beside(run, state, generators, meta) if run.ranks.main else None
    return folder_lost(run, run.ranks.broadcast(place), step=meta.step)


def write_beside(run: Run, state: Mapping[str, Any], generators: Sequence[Any], meta: Meta) -> Path:
    """Write a new run folder with one checkpoint beside the lost one, and return it. For the main process."""
    assert run.rescue is not None  # only the process that holds the lock can find the folder lost
    with run.rescue(run.folder, run.plan) as lock:
        beside = store.CheckpointStore(lock.folder, keep_last=1, background=False, texts=run.store.texts)
        beside.save(meta.step, state, meta, per_rank=generators)
        return lock.folder


def folder_lost(run: Run, place: Path | None, *, step: int) -> FolderLostError:
    """Make the error for a run's folder that is gone; the state of `step` is saved in `place`."""
    return FolderLostError(
        f"the run's folder `{run.folder}` was removed or renamed under the run; step {step} is saved in `{place}`",
        hint=f"continue with `ttstrain resume {quoted(place)}`",
    )


def held_content(run: Run, snapshots: Snapshots) -> Mapping[str, Any]:
    """Return the state that a snapshot holds, on the main process whole; all processes of a sharded run call it.

    In a sharded run, the snapshot is restored first.
    """
    content = snapshots.content()
    if run.shards is None:
        return content
    snapshots.restore(run.state)
    large = {name: tree for name, tree in run.state.state_dict().items() if name in LARGE}
    return {**content, **gathered(large, keep=run.ranks.main)}


def save_held(run: Run, content: Mapping[str, Any], *, step: int, generators: Sequence[Any] | None = None) -> Path:
    """Save a snapshot as the checkpoint of `step`, for a run that gives up, and return its folder.

    With the random `generators` of every rank this process saves by itself: the others may be gone.
    """
    look_for_failure(run, wait=True)
    if run.best.lost_by_saving(step):
        _best_anew(run, {}, step=step)
    if generators is None:
        generators = run.ranks.gather(content[PER_RANK])
    if run.ranks.main:
        run.store.save(step, shared(content), describe(run, metrics={}, step=step), per_rank=generators)
        run.store.wait()
    return run.store.folder(step)


def restore(run: Run, loaded: store.Loaded, *, source: Path, keep: Collection[str] = ()) -> list[str]:
    """Load a checkpoint into a run, except for the parts in `keep`; return notes for the user.

    A rank without random generators in the checkpoint uses newly seeded ones, and a note says so.
    """
    notes: list[str] = []
    content: dict[str, Any] = dict(loaded.state)
    kept = set(keep)
    if PER_RANK not in kept:
        if run.ranks.rank < len(loaded.per_rank) and run.ranks.world_size == len(loaded.per_rank):
            content[PER_RANK] = loaded.per_rank[run.ranks.rank]
        else:
            kept.add(PER_RANK)
            run.rng.seed(run.plan.recipe.train.seed + loaded.meta.step, rank=run.ranks.rank)
            notes.append(
                f"random generators are newly seeded: saved by {len(loaded.per_rank)} processes, "
                f"resumed by {run.ranks.world_size}; a step now takes {run.plan.accumulate} micro-batches of each"
            )
    if "task" in content and "task" not in kept:  # names what does not fit, which torch's own loading would not
        load_weights(run.task, content["task"], source=str(source))
        kept.add("task")
    run.state.load_state_dict(content, keep=kept)
    if loaded.meta.base is not None:
        leave_to_base(run, loaded.meta.base)
    elif outlines(run.task):
        raise CheckpointError(
            f"`{source}` holds the whole net, and `lora.base=nf4` keeps none of its weights as they are",
            hint="go on with `lora.base=full`, or start a new run from it with `lora.base=nf4`",
        )
    return notes


def leave_to_base(run: Run, base: BaseMeta) -> None:
    """Leave the weights that a base holds, `base.tensors`, out of the run's checkpoints and snapshots from now on.

    Those that the run trains, or holds in another type, stay in them. All ranks call it. Raises CheckpointError where
    the base does not hold what the run has in 4 bits only.
    """
    frozen = {name: own for name, own in run.task.exported().named_parameters() if not own.requires_grad}
    kinds = {name: str(own.dtype).removeprefix("torch.") for name, own in frozen.items()}
    tensors = {name: kind for name, kind in base.tensors.items() if kinds.get(name) == kind}
    if lost := [name for name in outlines(run.task) if name not in tensors]:
        raise CheckpointError(
            f"`lora.base=nf4` needs a base that holds its weights as they are, and {base.describe()} has none for "
            f"`{lora.plain_name(lost[0])}`",
            hint="train with `lora.base=full`",
        )
    run.base = base.model_copy(update={"tensors": tensors}) if tensors else None
    run.weights.leave_out(tensors)
    if run.ema is not None:
        run.ema.leave_out(tensors)


def describe(run: Run, *, metrics: Mapping[str, float], step: int | None = None) -> Meta:
    """Return the metadata of a checkpoint of the run, at its current step or at `step`."""
    recipe = run.plan.recipe
    texts = run.plan.facts.texts
    done = run.progress.step if step is None else step
    total = run.optimizers.curriculum.total_steps
    ended = done >= total
    groups = tuple(
        GroupMeta(
            optimizer=group.optimizer,
            name=group.name,
            lr=run.optimizers.lr_of(group, done, factor=run.guard.factor_of(group.key)),
            weight_decay=group.weight_decay,
            parameters=group.num_parameters,
        )
        for group in run.optimizers.table.groups
    )
    return Meta(
        family=recipe.task.split("/")[0],
        task=recipe.task,
        model=recipe.section(),
        recipe=run.plan.name,
        step=done,
        groups=groups,
        schedule=SchedulePosition(
            position=done,
            total=total,
            stages=tuple(run.optimizers.curriculum.ended),
            ended=ended,
            lr_next=max((group.lr for group in groups), default=None),
        ),
        ema=EmaMeta(present=False)
        if run.ema is None
        else EmaMeta(present=True, step=done, decay=run.ema.decay_at(done)),
        lora=_lora(run),
        base=_base(run),
        metrics=dict(metrics),
        notes=() if run.injector is None else (injected_note(run.injector.named),),
        versions={} if texts is None else dict(texts.front_end),
    )


def _base(run: Run) -> BaseMeta | None:
    if run.base is None:
        return None
    run_folder = run.folder.absolute()
    from_run = tuple(os.path.relpath(place, run_folder) for place in run.base.places)
    return run.base.model_copy(update={"from_run": from_run})


def _lora(run: Run) -> LoraMeta | None:
    config = run.plan.recipe.lora
    if config is None:
        return None
    return LoraMeta(
        rank=config.rank,
        alpha=config.alpha,
        scaling=lora.scaling_of(config),
        dora=config.dora,
        layers=len(lora.adapted_layers(run.task)),
    )
