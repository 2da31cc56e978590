"""Arguments of the commands that take a recipe, and options that are keys of it: `--lr 1e-5` is `optim.lr=1e-5`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ttstrain.cli import paths
from ttstrain.cli.completion import recipe_keys, recipe_names

RecipeArgument = Annotated[
    str,
    typer.Argument(
        parser=paths.name,
        metavar="RECIPE",
        help="A recipe's name (`ttstrain recipes`) or a YAML file.",
        autocompletion=recipe_names,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Overrides of recipe keys.", autocompletion=recipe_keys),
]
DataOption = Annotated[
    Path | None, typer.Option(parser=paths.path, help="Recordings to train on: a folder or a metadata file.")
]
BaseOption = Annotated[
    list[str] | None,
    typer.Option(
        parser=paths.name,
        help="Weights to start from: file, folder, run, hf://… or package:NAME; several: later over earlier.",
    ),
]
RunDirOption = Annotated[Path | None, typer.Option(parser=paths.path, help="Parent of the run's folder.")]
NprocOption = Annotated[int, typer.Option(min=1, help="Processes on this machine, one per GPU.")]
MaxRestartsOption = Annotated[
    int, typer.Option(min=0, help="With --nproc: how often all start again after one of them is lost.")
]
MAX_RESTARTS = 3

TAKE_KEYS = ("finetune", "resume", "plan", "prepare", "prove", "tune")  # commands that take `KEY=VALUE`
SAME_VALUE = {  # other trainers' names of keys; their values have the same meaning
    "learning_rate": "lr",
    "max_steps": "steps",
    "num_epochs": "epochs",
    "num_train_epochs": "epochs",
    "grad_accumulation_steps": "accumulate",
    "gradient_accumulation_steps": "accumulate",
    "max_samples": "max_clips",
    "num_warmup_updates": "warmup_steps",
    "num_workers": "workers",
}


def as_override(option: str, arguments: Sequence[str]) -> str | None:
    """Write an unknown option of a command line as `key=value`; None where no key has this name.

    The value is taken from `arguments` where it is valid for the key.
    """
    from ttstrain.plan.complaints import OTHER_NAMES, known_keys
    from ttstrain.recipe.schema import Recipe
    from ttstrain.shell import quoted

    name = option.lstrip("-").replace("-", "_")
    known = [key for key in known_keys(Recipe) if "*" not in key]
    same = SAME_VALUE.get(name, name)
    for meant in (same, OTHER_NAMES.get(name)):
        keys = [key for key in known if key == meant or key.rpartition(".")[2] == meant]
        if not keys:
            continue
        key = min(keys, key=lambda found: found.count("."))  # the first of the keys with the fewest parts
        value = _value_of(option, arguments) if meant == same else None
        return quoted(f"{key}={value}") if value is not None and _takes(key, value) else f"{key}=VALUE"
    return None


def _value_of(option: str, arguments: Sequence[str]) -> str | None:
    for at, argument in enumerate(arguments):
        if argument.startswith(f"{option}="):
            return argument.partition("=")[2]
        if argument == option and at + 1 < len(arguments):
            return arguments[at + 1]
    return None


def _takes(key: str, value: str) -> bool:
    """Tell whether a key takes a value as it is written on a command line."""
    from pydantic import ValidationError

    from ttstrain import registry
    from ttstrain.errors import RecipeError
    from ttstrain.recipe.compose import parse_override
    from ttstrain.recipe.schema import Recipe

    try:
        path, read = parse_override(f"{key}={value}")
        recipe: dict[str, Any] = {"task": next(iter(registry.tasks()))}
        at = recipe
        for part in path[:-1]:
            at = at.setdefault(part, {})
        at[path[-1]] = read
        Recipe.model_validate(recipe)
    except (RecipeError, ValidationError):
        return False
    return True
