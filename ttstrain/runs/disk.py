"""A check, before training, that a run's checkpoints fit on its disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ttstrain.checkpoint.pointers import CHECKPOINTS
from ttstrain.errors import RecipeError
from ttstrain.plan.plan import Plan
from ttstrain.plan.render import shown_bytes

FREE_SPACE_SHARE = 0.95  # of the disk's free bytes that a run may take


def check_disk(plan: Plan, place: Path, *, machines: int = 1) -> None:
    """Raise RecipeError when the run's folder lies on a disk that its checkpoints do not fit on."""
    free = shutil.disk_usage(place).free
    wanted = bytes_wanted(plan, present=size_of(place / CHECKPOINTS), machines=machines)
    if wanted > FREE_SPACE_SHARE * free:
        raise RecipeError(
            f"the run's checkpoints and snapshots need {shown_bytes(wanted)} more, "
            f"and the disk of `{place}` has {shown_bytes(free)} left",
            hint="keep fewer (`checkpoint.keep_last=1`), or choose another `--run-dir`",
        )


def bytes_wanted(plan: Plan, *, present: int, machines: int = 1) -> int:
    """Return the largest number of bytes that a run needs on top of the `present` ones of its own checkpoints.

    An old checkpoint is removed only once the next one is complete, so one more than is retained must fit. The same
    holds for snapshots on disk, of which each machine has its own.
    """
    each = plan.disk_bytes // plan.num_checkpoints
    checkpoint = plan.recipe.checkpoint
    replaces = checkpoint.best is not None or -(-plan.steps // plan.save_every) > plan.num_checkpoints
    at_once = each * (plan.num_checkpoints + replaces)
    return max(at_once - present, each) + machines * plan.snapshot_disk_bytes


def size_of(folder: Path) -> int:
    """Return the bytes of all files under a folder; links count as themselves."""
    files = (Path(place) / name for place, _, names in os.walk(folder) for name in names)
    return sum(file.lstat().st_size for file in files)
