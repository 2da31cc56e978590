"""The run's folder: what is written into it before the first step."""

from __future__ import annotations

import json
import re
import secrets
import sys
from datetime import datetime
from pathlib import Path

from ttstrain.config.plan import Plan
from ttstrain.config.render import recipe_yaml
from ttstrain.data import atomic
from ttstrain.environment import describe_environment
from ttstrain.errors import RecipeError

RECIPE, PLAN, ENVIRONMENT, IDENTITY = "recipe.yaml", "plan.json", "env.json", "run_id"


def create(plan: Plan) -> Path:
    """Make a fresh folder for a new run: `runs/<name>`, or `<name>-2`, `<name>-3` when that one is taken.

    A recipe that names its run explicitly gets that folder or an error: a named run is resumed, not shadowed.
    """
    root = Path(plan.recipe.run_dir)
    stem = plan.recipe.name or f"{plan.name}-{datetime.now():%Y%m%d-%H%M%S}"
    folder = root / stem
    if plan.recipe.name is not None and folder.exists() and any(folder.iterdir()):
        raise RecipeError(
            f"the run `{folder}` exists already",
            hint=f"continue it with `ttstrain resume {folder}`, or choose another `name=`",
        )
    return _claim(folder)


def create_beside(original: Path) -> Path:
    """Make a folder for a run that starts again from another's weights: `<name>-reset`, `<name>-reset-2`, …"""
    stem = re.sub(r"-reset(-\d+)?$", "", original.name)
    return _claim(original.with_name(f"{stem}-reset"))


def _claim(folder: Path) -> Path:
    candidate, number = folder, 2
    while True:
        try:
            candidate.mkdir(parents=True)
        except FileExistsError:
            if candidate.is_dir() and not any(candidate.iterdir()):
                return candidate
            candidate = folder.with_name(f"{folder.name}-{number}")
            number += 1
        except OSError as error:
            raise RecipeError(
                f"the run's folder `{candidate}` cannot be made: {error.strerror}", hint="choose another `--run-dir`"
            ) from error
        else:
            return candidate


def write_description(folder: Path, plan: Plan) -> None:
    """Write recipe, plan and environment; the run's identity is made once and kept by a resume."""
    atomic.write_text(folder / RECIPE, recipe_yaml(plan))
    atomic.write_text(folder / PLAN, json.dumps(plan.to_json(), indent=1, ensure_ascii=False) + "\n")
    started = datetime.now().astimezone().isoformat(timespec="seconds")
    environment = {**describe_environment(), "command": sys.argv[1:], "started": started}
    atomic.write_text(folder / ENVIRONMENT, json.dumps(environment, indent=1) + "\n")
    if not (folder / IDENTITY).exists():
        atomic.write_text(folder / IDENTITY, secrets.token_hex(4) + "\n")


def identity(folder: Path) -> str:
    """Return the id under which trackers know this run."""
    return (folder / IDENTITY).read_text(encoding="utf-8").strip()
