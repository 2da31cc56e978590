"""Projects of upstream tools: folders that hold checkpoints, prepared data and settings in a layout of their own.

A family that knows such a layout names a `ProjectFormat`. Every function here asks all families; none imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ttstrain import registry
from ttstrain.errors import DataError
from ttstrain.places import expanded, refused_as
from ttstrain.recipe.compose import Composed, with_defaults


def write_recipe(folder: Path) -> str | None:
    """Turn a project's settings into a recipe; None when no family knows the folder."""
    return next((text for known in registry.projects() if (text := known.recipe(folder)) is not None), None)


def settings_files() -> list[str]:
    """List the upstream settings files that a recipe can be made from, each with its tool."""
    return [known.settings_file for known in registry.projects() if known.settings_file]


def with_project(composed: Composed) -> Composed:
    """Set the keys that prepared data determine, such as the vocabulary, unless recipe or command line set them.

    The values take the place of a config's and of defaults; their origin names the project.
    """
    data, task = composed.values.get("data"), composed.values.get("task")
    path = data.get("path") if isinstance(data, Mapping) else None
    if not isinstance(path, str) or not isinstance(task, str):
        return composed
    folder = expanded(path)
    with refused_as(DataError):
        found = next(
            (own for known in registry.projects() if (own := known.settings(task=task, data=folder)) is not None), None
        )
    if found is None:
        return composed
    return with_defaults(composed, found.values, origin=found.origin)
