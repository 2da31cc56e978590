"""Which families this installation has, found by folder name: there is no list to edit.

Families are imported by name when they are asked for, so that rooms below them can ask all of them for what they know.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ttstrain.contract.checkpoint import UnknownFile
from ttstrain.contract.family import FOLDER, Family, TaskSpec, load_reference
from ttstrain.contract.model import Planner, ResolvedRecipe
from ttstrain.contract.project import ProjectFormat
from ttstrain.contract.table import LineFormat, TableFormat
from ttstrain.errors import RecipeError

UNKNOWN_UNIT = "frames or tokens"


def identify_unknown(keys: Sequence[str]) -> UnknownFile | None:
    """Ask every family what a file with these keys is, when none of their formats takes it."""
    for name in names():
        family = load(name)
        unknown: UnknownFile | None = load_reference(family.unknown_files)(keys) if family.unknown_files else None
        if unknown is not None:
            return unknown
    return None


def names() -> list[str]:
    """List the families in this installation."""
    return sorted(
        module.name for module in pkgutil.iter_modules(importlib.import_module(FOLDER).__path__) if module.ispkg
    )


def load(name: str) -> Family:
    """Import one family by its folder's name."""
    if name not in names():
        raise RecipeError(f"unknown family `{name}`", hint=f"known families: {', '.join(names())}")
    family: Family = importlib.import_module(f"{FOLDER}.{name}").FAMILY
    return family


def projects() -> Iterator[ProjectFormat]:
    """Yield what every family knows of its upstream's projects."""
    for name in names():
        known = load(name).load_project()
        if known is not None:
            yield known


def table_formats() -> Iterator[TableFormat]:
    """Yield the prepared folders that every family can read."""
    for name in names():
        yield from load(name).load_readers()


def line_formats() -> Iterator[LineFormat]:
    """Yield the tables that every family knows."""
    for name in names():
        yield from load(name).load_line_formats()


def find_task(name: str) -> TaskSpec:
    """Find the task that a recipe's `task:` names."""
    known = tasks()
    if name not in known:
        raise RecipeError(f"unknown task `{name}`", hint=f"known tasks: {', '.join(known)}")
    return known[name]


def tasks() -> Mapping[str, TaskSpec]:
    """Map every task's name to its spec, over all families."""
    return {spec.name: spec for family in names() for spec in load(family).tasks}


def unit_of(task: str) -> str:
    """Return what a task counts the lengths of clips in, for people; `UNKNOWN_UNIT` for one that is not installed."""
    spec = tasks().get(task)
    return UNKNOWN_UNIT if spec is None else spec.unit


def planner_of(recipe: ResolvedRecipe) -> Planner[Any]:
    """Return what a plan must know of a recipe's model."""
    return find_task(recipe.task).planner(recipe.model)
