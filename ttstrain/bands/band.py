"""A band: the first steps of three runs of a shipped recipe that differ by their seeds. `scripts/make_bands.py`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttstrain import documents
from ttstrain.bands.facts import Facts, read_facts
from ttstrain.data import atomic
from ttstrain.errors import RecipeError
from ttstrain.recipe.shipped import shipped

SCHEMA = 1
FOLDER = "bands"  # beside the shipped recipes
STEPS = 50  # of a run that are compared; a shorter run is compared whole
SEEDS = (0, 1, 2)
DIGITS = 5  # that are kept of a value
COMPARED = ("train/loss/", "optim/grad_norm/", "eval/loss/total")  # beginnings of the metrics that have a band
LR = "optim/lr/"

Points = Mapping[int, float]  # step -> value


@dataclass(frozen=True, slots=True)
class Curves:
    """The metrics of one run, by key."""

    seed: int
    points: Mapping[str, Points]


@dataclass(frozen=True, slots=True)
class Band:
    """The reference runs of a recipe."""

    recipe: str  # its name, as `ttstrain.recipe.shipped.recipe_name` writes it
    steps: int  # of each curve
    facts: Facts
    runs: Sequence[Curves]
    lrs: Mapping[str, Points]  # the same in every run

    @property
    def keys(self) -> list[str]:
        """The metrics that every reference run has."""
        return [key for key in self.runs[0].points if all(key in run.points for run in self.runs)]


def band_path(recipe: str) -> Path:
    """Return where the band of a shipped recipe lies, whether or not it has one."""
    return shipped("recipes") / FOLDER / f"{recipe}.json"


def find_band(recipe: str) -> Band | None:
    """Return the band of a recipe of this name; None where none ships. Raises RecipeError where it is damaged."""
    path = band_path(recipe)
    return read_band(path) if path.is_file() else None


def read_band(path: Path) -> Band:
    """Read a band. Raises RecipeError where the file is damaged or of another schema."""
    hint = "install ttstrain again, or make it again with `scripts/make_bands.py`"
    found = documents.read_object(path, error=RecipeError, hint=hint, keys={"schema": int, "recipe": str, "steps": int})
    if found["schema"] != SCHEMA:
        raise RecipeError(f"`{path}` has schema {found['schema']}; this ttstrain reads schema {SCHEMA}", hint=hint)
    try:
        return Band(
            recipe=found["recipe"],
            steps=found["steps"],
            facts=read_facts(found["facts"]),
            runs=[Curves(int(run["seed"]), _points(run["points"])) for run in found["runs"]],
            lrs=_points(found["lrs"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecipeError(f"`{path}` cannot be read: {type(error).__name__}: {error}", hint=hint) from error


def write_band(path: Path, band: Band, *, made_with: Mapping[str, str]) -> None:
    """Write a band, one curve a line."""
    document = {
        "schema": SCHEMA,
        "recipe": band.recipe,
        "steps": band.steps,
        "made_with": dict(made_with),
        "facts": band.facts.to_json(),
        "lrs": _written(band.lrs),
        "runs": [{"seed": run.seed, "points": _written(run.points)} for run in band.runs],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(path, _lines(document) + "\n")


def _points(curves: Mapping[str, Any]) -> dict[str, Points]:
    """Read curves, each a list of steps and a list of values."""
    return {
        key: {int(step): float(value) for step, value in zip(steps, values, strict=True)}
        for key, (steps, values) in curves.items()
    }


def _written(curves: Mapping[str, Points]) -> dict[str, list[list[float]]]:
    return {
        key: [list(points), [float(f"{value:.{DIGITS}g}") for value in points.values()]]
        for key, points in curves.items()
    }


def _lines(tree: Any, indent: str = "") -> str:
    """Write JSON with one line for each list of numbers."""
    if isinstance(tree, Mapping) and tree:
        inner = [f"{json.dumps(key)}: {_lines(value, indent + ' ')}" for key, value in tree.items()]
        opening, closing = "{", "}"
    elif isinstance(tree, list) and any(isinstance(item, Mapping) for item in tree):
        inner = [_lines(item, indent + " ") for item in tree]
        opening, closing = "[", "]"
    else:
        return json.dumps(tree, ensure_ascii=False)
    body = ",\n".join(f"{indent} {line}" for line in inner)
    return f"{opening}\n{body}\n{indent}{closing}"
