"""Restoring a resumed run's state: from a checkpoint of ours, or from an upstream training file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ttstrain.checkpoint.merging import open_training
from ttstrain.checkpoint.meta import check_vocab, compare_front_ends
from ttstrain.checkpoint.upstream import load_own, open_checkpoint
from ttstrain.checkpoint.worth import trained_schedule_free
from ttstrain.errors import CheckpointError, RecipeError
from ttstrain.runs.base import front_end_of, load_strictly, notes_on
from ttstrain.runs.changed_data import forget_measures
from ttstrain.runs.origin import Origin
from ttstrain.shell import quoted
from ttstrain.tensors.tensorfile import read_tree
from ttstrain.train import checkpointing
from ttstrain.train.prepare import Prepared
from ttstrain.train.run import Run

PART_NAMES = {  # part of the state -> its name in notes
    "task": "weights",
    "optimizers": "optimizer state",
    "ema": "EMA weights",
    "progress": "step and LR",
    "loader": "place in the data",
    "rng": "random numbers",
    "precision": "loss scale",
    "best": "best loss",
    "early_stop": "early stop",
    "new_rows": "new embeddings",
    "curriculum": "stage",
}
ADDED_LATER = frozenset({"ema", "early_stop", "curriculum"})  # parts that a resume may add to a run without them


def restore(
    run: Run,
    origin: Origin,
    prepared: Prepared,
    *,
    reset_step: bool,
    reset_optimizer: bool,
    base: Sequence[str] = (),
) -> list[str]:
    """Load the state at `origin` into a run; return notes on what was restored and what was reset.

    `base` names the files of the base at their new place, for a checkpoint of adapters.
    """
    keep = {name for name, reset in (("progress", reset_step), ("optimizers", reset_optimizer)) if reset}
    if origin.run is None:
        return _restore_upstream(run, origin, keep=keep)
    if reset_step:
        keep |= {"best", "early_stop", "curriculum"} & set(run.state.parts)
    loaded = load_own(origin.checkpoint, base=base)
    if base and loaded.base is None:
        raise RecipeError(f"`{origin.checkpoint}` is whole: it needs no base", hint="leave `--base` out")
    check_vocab(loaded.meta.versions, front_end_of(run), source=str(origin.checkpoint))
    late = (ADDED_LATER & set(run.state.parts)) - set(loaded.state)
    notes = checkpointing.restore(run, loaded, source=origin.checkpoint, keep=keep | late)
    if "ema" in late and run.ema is not None:
        run.ema.reset(run.task.exported())
    restored = [name for name in run.state.parts if name not in keep | late]
    lines = [f"from {origin.checkpoint} (step {origin.step}): kept {_named(restored)}"]
    if keep | late:
        lines.append(f"reset: {_named(name for name in run.state.parts if name in keep | late)}")
    if unused := sorted(set(loaded.state) - set(run.state.parts)):
        lines.append(f"not used, because this run has none: {_named(unused)}")
    if reset_optimizer and trained_schedule_free(loaded.state):
        lines.append(
            "WARNING: evaluations used averaged weights, which are given up with the optimizer state: the run goes on "
            "from the trained ones. `ttstrain export` writes the averaged ones"
        )
    notes += forget_measures(run, prepared, loaded.state, keep=keep | late, step=origin.step)
    if "best" not in keep | late:
        notes += _look_for_best(run, origin)
    return lines + notes + compare_front_ends(loaded.meta.versions, front_end_of(run))


def _look_for_best(run: Run, origin: Origin) -> list[str]:
    """Reset a best from after this checkpoint's step, before a rollback, where its checkpoint is gone; return notes."""
    best = run.best
    if not best.of_left_course or checkpointing.best_is_on_disk(run):
        return []
    note = f"the best so far ({best.value:.4f} at step {best.step}) is no longer on disk: the best is reset"
    best.forget()
    return [note]


def _named(parts: Iterable[str]) -> str:
    return ", ".join(PART_NAMES.get(part, part) for part in parts)


def _restore_upstream(run: Run, origin: Origin, *, keep: set[str]) -> list[str]:
    """Take weights, EMA, optimizer state and step from another trainer's file; the LR is this plan's at that step."""
    _check_resumable(run, origin)
    opened = open_training(open_checkpoint(origin.checkpoint, task=run.plan.recipe.task), task=run.plan.recipe.task)
    opened.check_model(run.plan.recipe.section())
    fitted = run.task.fitted(opened)
    if any(opened.weights.get(name) is not tensor for name, tensor in fitted.weights.items()):
        raise CheckpointError(
            f"`{opened.path}` was trained with another vocabulary than the recipe's",
            hint="give it the vocabulary that it was trained with, or start a new run from it: `finetune --base`",
        )
    report = load_strictly(run, opened, fitted.weights)
    restored, reset = [f"{len(report.matched)} weights"], ["place in the data", "random numbers"]
    if run.ema is not None:
        if opened.ema is not None:
            run.ema.load_state_dict({"weights": read_tree(opened.ema)})
            restored.append("EMA weights")
        else:
            run.ema.reset(run.task.exported())
            reset.append("EMA weights")
    if opened.optimizer_state is not None and "optimizers" not in keep:
        saved = read_tree(opened.optimizer_state)
        state = run.optimizers.state_dict()
        state = {name: {key: dict(saved.get(key, {})) for key in own} for name, own in state.items()}
        if (kinds := run.optimizers.misfit(state)) is None:
            run.optimizers.load_state_dict(state)
            restored.append("optimizer state")
        else:
            reset.append(f"optimizer state ({kinds})")
    else:
        reset.append("optimizer state")
    if "progress" in keep:
        reset.append("step")
    else:
        run.progress.step = origin.step
        restored.append(f"step {origin.step}")
    return [
        f"from {opened.title} ({opened.model}): kept {', '.join(restored)}",
        f"reset: {', '.join(reset)}",
        *notes_on(run.plan, opened),
        *fitted.notes,
    ]


def _check_resumable(run: Run, origin: Origin) -> None:
    """Raise RecipeError for `lora` and `model.first_new_rows`, which an upstream training file cannot resume."""
    if run.plan.recipe.lora is not None:
        raise RecipeError(
            "an upstream training file is continued with all its weights; `lora` would train adapters only",
            hint=f"start a new run from it: `ttstrain finetune RECIPE --base {quoted(origin.checkpoint)}`",
        )
    if run.optimizers.new_embeddings is not None:
        raise RecipeError(
            "`model.first_new_rows` is for runs that start from a base, and this one resumes",
            hint="leave `model.first_new_rows` out, or start from the file: `ttstrain finetune --base`",
        )
