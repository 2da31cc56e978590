"""Projects of upstream tools: folders with checkpoints, prepared data and settings in a layout of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Chosen:
    """The checkpoint chosen from a folder, and why."""

    path: Path
    why: str


@dataclass(frozen=True, slots=True)
class ProjectSettings:
    """Recipe values that follow from a project."""

    values: Mapping[str, Any]  # dotted key of the recipe -> value
    origin: str  # where the values come from, for the plan


class ProjectFormat(Protocol):
    """Knows how one upstream lays out its projects."""

    settings_file: str  # the tool and its file that `recipe` reads, for people; empty: none

    def choose(self, folder: Path) -> Chosen | None:
        """Choose among the checkpoints of a project; None if the folder is not a project. Raises CheckpointError."""
        ...

    def settings(self, *, task: str, data: Path | None) -> ProjectSettings | None:
        """Return recipe values that prepared data determine; None if they are not a project's."""
        ...

    def recipe(self, folder: Path) -> str | None:
        """Convert a project's settings to a recipe, as YAML; None if the folder is not a project."""
        ...
