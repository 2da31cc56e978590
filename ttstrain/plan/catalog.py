"""What the shipped recipes are for: their family, their goal and the memory that they need."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ttstrain import registry
from ttstrain.recipe.compose import load_yaml
from ttstrain.recipe.shipped import PACKAGE, SCHEMA_LINE, list_recipes

GOALS: Mapping[str, str] = {  # what the line `# Goal:` of a recipe may say
    "voice": "a voice, from some minutes of speech or more",
    "minute": "a voice, from a minute or less",
    "language": "a language",
}
FIRST = "To begin with: nothing to download, nothing to prepare"
MACHINERY = "smoke"  # folder of the recipes that only show that a machine can train
MACHINERY_TITLE = "To see that a machine can train, evaluate, save and resume"
_MEMORY = re.compile(r"(\d+) GB")


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A shipped recipe, and what its head and its keys say."""

    name: str
    path: Path
    purpose: str
    task: str
    goals: tuple[str, ...]  # keys of GOALS; empty: not for a user's own voice or language
    memory_gb: int  # of the GPU it needs; 0: it runs without one
    ships_data: bool

    @property
    def family(self) -> str:
        return self.task.partition("/")[0]


def read_catalog() -> list[CatalogEntry]:
    """Read every shipped recipe, in the order of `list_recipes`."""
    return [_entry(found.name, found.path, found.purpose) for found in list_recipes()]


def family_title(name: str) -> str:
    """Return the name under which people know a family."""
    return registry.load(name).title or name


def grouped(entries: Sequence[CatalogEntry]) -> dict[str, list[CatalogEntry]]:
    """Sort recipes under headings: those that need nothing first, then by family, those for the machinery last."""
    groups: dict[str, list[CatalogEntry]] = {FIRST: []}
    groups |= {family_title(name): [] for name in registry.names()}
    groups[MACHINERY_TITLE] = []
    for entry in entries:
        if entry.name.startswith(f"{MACHINERY}/"):
            groups[MACHINERY_TITLE].append(entry)
        else:
            groups[FIRST if entry.ships_data else family_title(entry.family)].append(entry)
    return {title: found for title, found in groups.items() if found}


def _entry(name: str, path: Path, purpose: str) -> CatalogEntry:
    head = _head(path)
    values = load_yaml(path)
    memory = _MEMORY.search(head.get("Hardware and time", ""))
    data = values.get("data") or {}
    return CatalogEntry(
        name=name,
        path=path,
        purpose=purpose,
        task=values["task"],
        goals=tuple(goal.strip() for goal in head.get("Goal", "").split(",") if goal.strip()),
        memory_gb=int(memory[1]) if memory else 0,
        ships_data=str(data.get("path", "")).startswith(PACKAGE),
    )


def _head(path: Path) -> dict[str, str]:
    """Return the labelled comment lines at the top of a recipe: `# Label: text`."""
    head: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith(SCHEMA_LINE):
            label, _, text = line.lstrip("# ").partition(":")
            head[label] = text.strip()
    return head
