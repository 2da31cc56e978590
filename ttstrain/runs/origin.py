"""What a resume continues from: a checkpoint of one of our runs, or an upstream training file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ttstrain.checkpoint import pointers, run_folder, store
from ttstrain.checkpoint.damage import open_meta
from ttstrain.checkpoint.upstream import follow, open_checkpoint
from ttstrain.errors import CheckpointError, RecipeError
from ttstrain.runs import sessions
from ttstrain.shell import quoted
from ttstrain.tracking import jsonl


@dataclass(frozen=True, slots=True)
class Origin:
    """The checkpoint or upstream file that a resume continues from."""

    checkpoint: Path
    run: Path | None  # the run of ours that it belongs to; None for an upstream file
    step: int
    ended: tuple[tuple[str, int], ...] = ()  # (name, last step) of the stages that have ended
    owes_evaluation: bool = False  # the evaluation after `step` was due and not made: a signal or a kill came first


def run_of(path: Path) -> Path | None:
    """Return the folder of our run that a path leads to; None for any other path.

    The path may be the run's folder, its `checkpoints` folder or one checkpoint in that.
    """
    path = path.resolve() if path.name in ("", "..") else path  # `.`: a run has a name
    for run in (path, path.parent, path.parent.parent):
        named = path == run or path.relative_to(run).parts[0] == pointers.CHECKPOINTS
        if named and (run / run_folder.RECIPE).is_file():
            return run
    return None


def find(path: Path, *, run: Path | None, checkpoint: Path | None, recipe: str | None) -> Origin:
    """Find the checkpoint to resume from; `run` is our run that `path` leads to, `checkpoint` the value of `--from`.

    Raises RecipeError where the path does not exist or the recipe is missing or not wanted, CheckpointError where the
    checkpoint cannot be resumed.
    """
    if not path.exists():
        raise RecipeError(f"`{path}` does not exist", hint="give a run's folder, such as `runs/<name>`")
    if run is not None:
        if recipe is not None:
            raise RecipeError("a run of ours has its own recipe", hint="change keys with `key=value`")
        found = follow(path) if checkpoint is None else _own_checkpoint(run, checkpoint)
        if not pointers.is_own(found):
            raise CheckpointError(f"`{found}` leads out of `{run}`, which can only go on from its own checkpoints")
        meta = open_meta(found)
        stages = () if meta.schedule is None else meta.schedule.stages
        owes = "progress" in meta.parts and bool(store.load_part(found, "progress").get("owes_evaluation"))
        return Origin(found, run, meta.step, stages, owes_evaluation=owes)
    found = follow(path if checkpoint is None else _file_in(path, checkpoint))
    if pointers.is_checkpoint(found):
        raise CheckpointError(
            f"`{found}` does not lie in a run's folder", hint=f"start a new run from it: `--base {quoted(found)}`"
        )
    opened = open_checkpoint(found)
    if opened.step is None or opened.kind != "training":
        raise CheckpointError(
            f"`{found}` is no training checkpoint ({opened.kind}), so it cannot be resumed",
            hint=f"start a new run from it: `ttstrain finetune RECIPE --base {quoted(found)}`",
        )
    if recipe is None:
        raise RecipeError(
            f"`{found}` is an upstream training file: name the recipe that continues it", hint="add `--recipe RECIPE`"
        )
    return Origin(found, None, opened.step)


def not_begun(run: Path) -> bool:
    """Tell whether a run ended before its first checkpoint was complete, so that it starts again from its base.

    Raises CheckpointError where its checkpoints are lost, or where it did not start from its base.
    """
    root = run / pointers.CHECKPOINTS
    if pointers.list_checkpoints(root) or any((root / name).exists() for name in (pointers.LAST, pointers.BEST)):
        return False
    reached = jsonl.last_step(run / jsonl.FILE_NAME)
    in_first_save = root.is_dir() and any(root.glob(".step-*"))
    if reached > 2 * run_folder.read_plan(run)["save_every"] and not in_first_save:
        raise CheckpointError(
            f"the checkpoints of `{run}` are missing: it was at step {reached} and cannot be resumed",
            hint="put them back, or start a new run",
        )
    if (command := sessions.began_from_elsewhere(run)) is not None:
        raise CheckpointError(
            f"`{run}` ended before its first checkpoint, and it did not begin from its base",
            hint=f"start it again with `{command}`",
        )
    return True


def _own_checkpoint(run: Path, named: Path) -> Path:
    """Find `--from` among the run's own checkpoints: a name such as `best` or `step-00000500`, or a path to one.

    Raises CheckpointError for a checkpoint elsewhere: resuming it would continue another run than the one named.
    """
    root = run / pointers.CHECKPOINTS
    own = root / named.name
    inside = len(named.parts) == 1 or (named.exists() and named.parent.resolve() == root.resolve())
    if inside and own.exists():
        return follow(own)
    if named.exists():
        raise CheckpointError(
            f"`{named}` is no checkpoint of `{run}`, which can only go on from its own",
            hint=f"use that one with `ttstrain {_way_to_use(named)}`",
        )
    present = ", ".join(found.name for found in pointers.list_checkpoints(root)) or "none"
    raise CheckpointError(f"`{run}` has no checkpoint `{named}`", hint=f"complete ones: {present}")


def _way_to_use(checkpoint: Path) -> str:
    run = run_of(checkpoint)
    if run is None:
        return f"finetune RECIPE --base {quoted(checkpoint)}"
    named = f" --from {checkpoint.name}" if checkpoint.parent.name == pointers.CHECKPOINTS else ""
    return f"resume {quoted(run)}{named}"


def _file_in(project: Path, named: Path) -> Path:
    """Find `--from` for an upstream project: the name of a file in its folder, or a path."""
    if project.is_dir() and (project / named).exists():
        return project / named
    if not named.exists():
        raise CheckpointError(f"there is no checkpoint `{named}`", hint=f"look into `{project}`")
    return named
