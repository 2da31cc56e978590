"""Projects of upstream tools: folders with checkpoints, prepared data and settings in a layout of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Chosen:
    """One of a folder's checkpoints, and why it is the one."""

    path: Path
    why: str


@dataclass(frozen=True, slots=True)
class ProjectSettings:
    """What a project decides about a run."""

    values: Mapping[str, Any]  # dotted key of the recipe -> value
    origin: str  # where the values come from, for the plan


class ProjectFormat(Protocol):
    """Knows how one upstream lays out its projects."""

    settings_file: str  # the tool and its file that `recipe` reads, for people; empty: none

    def choose(self, folder: Path) -> Chosen | None:
        """Choose among the checkpoints of a project; None when the folder is none. Raises CheckpointError."""
        ...

    def settings(self, *, task: str, data: Path | None) -> ProjectSettings | None:
        """Return what prepared data decide; None when they are not a project's."""
        ...

    def recipe(self, folder: Path) -> str | None:
        """Write a recipe, as YAML, that does sanely what a project's settings meant; None when it is no project."""
        ...
