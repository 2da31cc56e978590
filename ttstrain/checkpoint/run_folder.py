"""What a run's folder records: the recipe, the plan and the environment of its latest start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ttstrain import documents
from ttstrain.errors import CheckpointError

RECIPE, PLAN, ENVIRONMENT = "recipe.yaml", "plan.json", "env.json"
SESSIONS = "sessions"
REPORT = "report.html"


def read_environment(folder: Path) -> dict[str, Any]:
    """Return the recorded environment of a run's start, as far as it can be read."""
    return _read_record(folder / ENVIRONMENT)


def identity(folder: Path) -> str | None:
    """Return the id under which trackers know this run; None before its folder is described."""
    run_id = _read_record(folder / ENVIRONMENT).get("run_id")
    return run_id if isinstance(run_id, str) else None


def directory(folder: Path) -> Path | None:
    """Return the directory that the run was started in, the base of its relative paths; None where it is missing."""
    written = _read_record(folder / ENVIRONMENT).get("directory")
    place = Path(written if isinstance(written, str) else "")
    return place if place.is_absolute() and _is_folder(place) else None


def origins(folder: Path) -> dict[str, str]:
    """Return the origins of the values of a run's recipe, from its plan; empty if the plan is damaged."""
    written = _read_record(folder / PLAN).get("origins")
    return {key: str(origin) for key, origin in written.items()} if isinstance(written, dict) else {}


def name(folder: Path) -> str:
    """Return a run's name from its plan, or its folder's name if the plan is damaged."""
    written = _read_record(folder / PLAN).get("name")
    return written if isinstance(written, str) and written else folder.name


def shard(folder: Path, world_size: int) -> int | None:
    """Return how many processes were to hold a run's weights together, as its last start chose by the GPUs' memory.

    None where it chose by something else or had other than `world_size` processes, and where its plan is damaged.
    """
    written = _read_record(folder / PLAN)
    sharding = written.get("sharding")
    if written.get("world_size") != world_size or not isinstance(sharding, dict) or sharding.get("fits") is None:
        return None
    degree = sharding.get("degree")
    divides = isinstance(degree, int) and 0 < degree <= world_size and world_size % degree == 0
    return degree if divides else None


def is_mute(folder: Path) -> bool:
    """Tell whether a run's recipe switches samples off; False where its plan is damaged."""
    recipe = _read_record(folder / PLAN).get("recipe")
    sample = recipe.get("sample") if isinstance(recipe, dict) else None
    return isinstance(sample, dict) and sample.get("every", "") is None


def read_plan(folder: Path) -> dict[str, Any]:
    """Read the run's length from its plan. Raises CheckpointError if the plan is damaged."""
    return documents.read_object(folder / PLAN, error=CheckpointError, keys=_IN_PLAN, hint=_ANEW)


def damage(folder: Path) -> list[str]:
    """Return a warning for each description of a run that cannot be read; a resume writes a new one."""
    found = []
    for file, keys, lost in (
        (PLAN, _IN_PLAN, "where each value came from"),
        (ENVIRONMENT, {"run_id": str, "directory": str}, "where the run was started, and its id for trackers"),
    ):
        try:
            documents.read_object(folder / file, error=CheckpointError, keys=keys)
        except CheckpointError as error:
            found.append(f"WARNING: {error.message}. A new one is written; the old one recorded {lost}")
    return found


_IN_PLAN: dict[str, type] = {"name": str, "origins": dict, "steps": int, "steps_per_epoch": float, "save_every": int}
_ANEW = "`ttstrain resume` writes a new one"


def _read_record(path: Path) -> dict[str, Any]:
    """Read a description as far as it can be read; `damage` reports the rest."""
    try:
        return documents.read_object(path, error=CheckpointError)
    except CheckpointError:
        return {}


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # not a valid path
        return False
