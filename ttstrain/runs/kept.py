"""What a resumed run keeps: the files that its recipe names, wherever it is resumed, and the shards that it chose."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ttstrain import registry
from ttstrain.checkpoint import run_folder
from ttstrain.checkpoint.damage import open_meta
from ttstrain.checkpoint.meta import kept_files, kept_name
from ttstrain.checkpoint.store import verified_text
from ttstrain.contract.model import KeepsFiles
from ttstrain.data import atomic
from ttstrain.errors import RecipeError
from ttstrain.recipe.compose import COMMAND_LINE, Composed

PATHS = ("data.path", "data.replay.path", "data.cache_dir", "base")  # keys that may name something relative


def from_where_started(composed: Composed, directory: Path | None) -> tuple[Composed, list[str]]:
    """Resolve relative paths of a run's recipe against the directory it was started in, where they exist there.

    Paths from the command line stay relative to the current directory. Returns the recipe and notes for the user.
    """
    if directory is None or directory == Path.cwd():
        return composed, []
    found: dict[str, str | list[str]] = {}
    for key in PATHS:
        value = _get(composed.values, key)
        if value is None or composed.places.get(key) == COMMAND_LINE:
            continue
        named = value if isinstance(value, list) else [value]  # a base may be several files
        moved = [str(directory / path) if _is_there(directory / path) else path for path in named]
        if moved != named:
            found[key] = moved if isinstance(value, list) else moved[0]
    if not found:
        return composed, []
    values = copy.deepcopy(composed.values)
    for key, value in found.items():
        *sections, name = key.split(".")
        section = values
        for part in sections:
            section = section[part]
        section[name] = value
    return replace(composed, values=values), [f"the run was started in `{directory}`: {_listed(found)}"]


def _is_there(path: Path) -> bool:
    """Tell whether a path is there, or the folder in which a pattern names files."""
    return path.exists() or (any(c in path.name for c in "*?[{") and path.parent.is_dir())


def _get(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def _listed(paths: Mapping[str, str | list[str]]) -> str:
    return ", ".join(
        f"`{key}` is `{path if isinstance(path, str) else ', '.join(path)}`" for key, path in paths.items()
    )


def with_kept_files(composed: Composed, *, checkpoint: Path, run: Path) -> tuple[Composed, list[str]]:
    """Point a run's recipe to the copies in the run's folder where the original files are gone or have changed.

    Paths from the command line stay as they are. Returns the recipe and notes for the user.
    """
    meta = open_meta(checkpoint)
    section: dict[str, Any] = dict(composed.values.get("model") or {})
    notes = []
    for key in kept_files(checkpoint, meta):
        named = section.get(key)
        if composed.places.get(f"model.{key}") == COMMAND_LINE or not isinstance(named, str):
            continue
        text = verified_text(checkpoint, meta, kept_name(key))
        now = _texts(meta.task, {key: named}).get(key)
        if now == text:
            continue
        copy = run / kept_name(key)
        atomic.write_text(copy, text)
        section[key] = str(copy)
        state = "is gone" if now is None else "has changed since"
        notes.append(f"`{named}` {state}: `model.{key}` is now `{copy}`, the run's own copy")
    return (replace(composed, values={**composed.values, "model": section}) if notes else composed), notes


def _texts(task: str, section: Mapping[str, str]) -> Mapping[str, str]:
    """Read the files that the keys of `section` name now; empty where one of them cannot be read."""
    try:
        spec = registry.find_task(task)
        planner = spec.planner(spec.read_model(section))
        return planner.kept_files() if isinstance(planner, KeepsFiles) else {}
    except RecipeError:
        return {}


def kept_shard(composed: Composed, run: Path | None, *, world_size: int) -> int | None:
    """Return what a run's last start chose for `train.parallel.shard: auto`; None where that is to be chosen anew.

    It is where the number of processes has changed, or where the command line asks for it.
    """
    asked = [key for key in ("train.parallel.shard", "train.parallel") if composed.places.get(key) == COMMAND_LINE]
    if run is None or asked:
        return None
    return run_folder.shard(run, world_size)
