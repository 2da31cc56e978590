"""The run's folder: what is written into it before the first step."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from ttstrain import documents
from ttstrain.checkpoint.lock import LOCK, RunLock, hold
from ttstrain.errors import CheckpointError, RecipeError
from ttstrain.plan.plan import Plan
from ttstrain.recipe.schema import Recipe
from ttstrain.shell import quoted

RECIPE, PLAN, ENVIRONMENT = "recipe.yaml", "plan.json", "env.json"
SESSIONS = "sessions"


def create(plan: Plan) -> RunLock:
    """Make and lock a fresh folder for a new run: `runs/<name>-<time>`, or `-2`, `-3` behind it when that is taken.

    A recipe that names its run explicitly gets that folder or an error: see `check_name`.
    """
    named = plan.recipe.name
    if named is None:
        return _claim(Path(plan.recipe.run_dir) / f"{plan.name}-{datetime.now():%Y%m%d-%H%M%S}")
    folder = Path(plan.recipe.run_dir) / named
    try:
        folder.mkdir(parents=True)
    except FileExistsError:  # an empty one, as `check_name` says once it is locked
        return _take_over(folder, plan.recipe)
    except OSError as error:
        raise _cannot_be_made(folder, error) from error
    return hold(folder, made=True)


def check_name(recipe: Recipe) -> None:
    """Refuse the name of a run that exists: a named run is resumed, not shadowed."""
    if recipe.name is None:
        return
    folder = Path(recipe.run_dir) / recipe.name
    if folder.exists() and _in_use(folder):
        raise RecipeError(
            f"the run `{folder}` exists already",
            hint=f"continue it with `ttstrain resume {quoted(folder)}`, or choose another `name=`",
        )


def refuse_links(run: Path) -> None:
    """Raise RecipeError when what is written in a run's folder would land elsewhere, for a link leads there."""
    home = run.resolve()
    for path in _written(run):
        if path.is_symlink() and home not in path.resolve().parents:
            raise RecipeError(
                f"`{path}` is a link that leads out of the run, to `{path.resolve()}`: nothing is written there",
                hint="put the files themselves there; to have a run on another disk, link its whole folder",
            )


def _written(run: Path) -> Iterator[Path]:
    """Yield what a run writes, down to its files. What W&B links is its own business."""
    for top in run.iterdir():
        if top.name.startswith(_OURS):
            yield top
            if top.name != _WANDB:
                yield from (Path(place) / name for place, *names in os.walk(top) for name in (*names[0], *names[1]))


_WANDB = "wandb"
_OURS = (  # beginnings of names
    *("checkpoints", "samples", "incidents", "data", SESSIONS, "metrics.", "snapshot-rank-", "tensorboard", _WANDB),
)


def create_beside(original: Path) -> RunLock:
    """Make and lock a folder for a run that starts again from another's weights: `<name>-reset`, `<name>-reset-2`, …"""
    stem = re.sub(r"-reset(-\d+)?$", "", original.name)
    return _claim(original.with_name(f"{stem}-reset"))


def create_rescue(original: Path) -> RunLock:
    """Make and lock a folder for the state of a run whose own is gone: `<name>-rescued`, `<name>-rescued-2`, …"""
    return _claim(original.with_name(f"{original.name}-rescued"))


def _claim(folder: Path) -> RunLock:
    """Make the folder, or the first free one with a number behind its name. To have made it is to own it."""
    candidate, number = folder, 2
    while True:
        try:
            candidate.mkdir(parents=True)
        except FileExistsError:
            candidate = folder.with_name(f"{folder.name}-{number}")
            number += 1
        except OSError as error:
            raise _cannot_be_made(candidate, error) from error
        else:
            return hold(candidate, made=True)


def _take_over(folder: Path, recipe: Recipe) -> RunLock:
    lock = hold(folder)
    try:
        check_name(recipe)  # another run may have had it since it was looked at first
    except RecipeError:
        lock.release()
        raise
    return lock


def _in_use(folder: Path) -> bool:
    """Tell whether a run was begun here; one that was killed before it was described was not."""
    if not folder.is_dir():
        return True
    left = {path.name for path in folder.iterdir()}
    return not left <= {LOCK, PLAN, ENVIRONMENT, SESSIONS}


def _cannot_be_made(folder: Path, error: OSError) -> RecipeError:
    return RecipeError(
        f"the run's folder `{folder}` cannot be made: {error.strerror}", hint="choose another `--run-dir`"
    )


def read_environment(folder: Path) -> dict[str, Any]:
    """Return what a run's start says of its environment, as far as it can be read."""
    return _read(folder / ENVIRONMENT)


def identity(folder: Path) -> str | None:
    """Return the id under which trackers know this run; None before its folder is described."""
    run_id = _read(folder / ENVIRONMENT).get("run_id")
    return run_id if isinstance(run_id, str) else None


def directory(folder: Path) -> Path | None:
    """Return the directory that the run was started in, where its relative paths lead from; None where it is gone."""
    written = _read(folder / ENVIRONMENT).get("directory")
    place = Path(written if isinstance(written, str) else "")
    return place if place.is_absolute() and _is_folder(place) else None


def origins(folder: Path) -> dict[str, str]:
    """Return where the values of a run's recipe came from, as its plan says; empty where the plan is damaged."""
    written = _read(folder / PLAN).get("origins")
    return {key: str(origin) for key, origin in written.items()} if isinstance(written, dict) else {}


def name(folder: Path) -> str:
    """Return what a run is named after, as its plan says; its folder's name where the plan is damaged."""
    written = _read(folder / PLAN).get("name")
    return written if isinstance(written, str) and written else folder.name


def read_plan(folder: Path) -> dict[str, Any]:
    """Read a run's plan where nothing else tells its length. Raises CheckpointError when it is damaged."""
    return documents.read_object(folder / PLAN, error=CheckpointError, keys=_IN_PLAN, hint=_ANEW)


def damage(folder: Path) -> list[str]:
    """Name the descriptions of a run that cannot be read: a resume writes them anew, and says what was lost."""
    found = []
    for file, keys, lost in (
        (PLAN, _IN_PLAN, "where each value came from"),
        (ENVIRONMENT, {"run_id": str, "directory": str}, "where the run was started, and its id for trackers"),
    ):
        try:
            documents.read_object(folder / file, error=CheckpointError, keys=keys)
        except CheckpointError as error:
            found.append(f"WARNING: {error.message}. It is written anew; it held {lost}")
    return found


_IN_PLAN: dict[str, type] = {"name": str, "origins": dict, "steps": int, "steps_per_epoch": float, "save_every": int}
_ANEW = "`ttstrain resume` writes it anew"


def _read(path: Path) -> dict[str, Any]:
    """Read a description as far as it can be read: `damage` tells of what cannot."""
    try:
        return documents.read_object(path, error=CheckpointError)
    except CheckpointError:
        return {}


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that no path can have
        return False
