"""Making and locking a run's folder, and checks of what lies in it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

from ttstrain.checkpoint.lock import LOCK, RunLock, busy, hold, is_held
from ttstrain.checkpoint.run_folder import ENVIRONMENT, PLAN, SESSIONS
from ttstrain.contract.model import ResolvedRecipe
from ttstrain.errors import RecipeError
from ttstrain.plan.plan import Plan
from ttstrain.runs import sessions
from ttstrain.shell import quoted


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
    except FileExistsError:  # it may be empty; `check_name` decides that once it is locked
        return _take_over(folder)
    except OSError as error:
        raise _cannot_be_made(folder, error) from error
    return hold(folder, made=True)


def check_name(recipe: ResolvedRecipe) -> None:
    """Raise RecipeError where the recipe names a run that exists already, RunBusyError where that is training."""
    if recipe.name is None:
        return
    folder = Path(recipe.run_dir) / recipe.name
    if folder.exists() and _in_use(folder) and is_held(folder):
        raise busy(folder)
    _refuse_existing(folder)


def _refuse_existing(folder: Path) -> None:
    if folder.exists() and _in_use(folder):
        raise RecipeError(
            f"the run `{folder}` exists already",
            hint=f"continue it with `ttstrain resume {quoted(folder)}`, or choose another `name=`",
        )


def refuse_links(run: Path) -> None:
    """Raise RecipeError where a link in a run's folder leads out of it: the run would write elsewhere."""
    home = run.resolve()
    for path in _written(run):
        if not path.is_symlink():
            continue
        try:
            leads_to = path.resolve()
        except (RuntimeError, OSError) as error:
            raise RecipeError(f"`{path}` is a link that leads to itself", hint="remove it") from error
        if home not in leads_to.parents:
            raise RecipeError(
                f"`{path}` is a link that leads out of the run, to `{leads_to}`: nothing is written there",
                hint="put the files themselves there; to have a run on another disk, link its whole folder",
            )


def _written(run: Path) -> Iterator[Path]:
    """Yield every path that a run writes, down to its files. Of W&B's folder only the top: W&B makes links in it."""
    for top in run.iterdir():
        if top.name.startswith(_OURS):
            yield top
            if top.name != _WANDB:
                yield from (Path(place) / name for place, *names in os.walk(top) for name in (*names[0], *names[1]))


_WANDB = "wandb"
_OURS = (  # beginnings of names
    *("checkpoints", "samples", "incidents", "data", SESSIONS, "metrics.", "warnings.", "forecast."),
    *("snapshot-rank-", "tensorboard", _WANDB),
)


def create_beside(original: Path) -> RunLock:
    """Make and lock a folder for `--reset-step` from another run: `<name>-reset`, `<name>-reset-2`, …"""
    stem = re.sub(r"-reset(-\d+)?$", "", original.name)
    return _claim(original.with_name(f"{stem}-reset"))


def create_rescue(lost: Path, plan: Plan) -> RunLock:
    """Make, lock and describe a folder for a run whose folder is gone: `<name>-rescued`, `<name>-rescued-2`, …"""
    with ExitStack() as until_described:
        lock = until_described.enter_context(_claim(lost.with_name(f"{lost.name}-rescued")))
        sessions.write_description(lock.folder, plan, goes_on_from=lost)
        until_described.pop_all()
    return lock


def _claim(folder: Path) -> RunLock:
    """Make and lock the folder, or the first free one with a number behind its name.

    Raises RecipeError where it cannot be made. Of two processes only one can make a folder, and that one owns it.
    """
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


def _take_over(folder: Path) -> RunLock:
    lock = hold(folder)
    try:
        _refuse_existing(folder)  # another run may have taken the folder since the first check
    except RecipeError:
        lock.release()
        raise
    return lock


def _in_use(folder: Path) -> bool:
    """Tell whether a run was started here; one that was killed before its description was complete does not count."""
    if not folder.is_dir():
        return True
    left = {path.name for path in folder.iterdir()}
    return not left <= {LOCK, PLAN, ENVIRONMENT, SESSIONS}


def _cannot_be_made(folder: Path, error: OSError) -> RecipeError:
    return RecipeError(
        f"the run's folder `{folder}` cannot be made: {error.strerror}", hint="choose another `--run-dir`"
    )
