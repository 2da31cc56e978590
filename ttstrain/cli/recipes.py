"""`ttstrain recipes`: the recipes that ship with ttstrain."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Annotated

import typer

from ttstrain.cli import paths
from ttstrain.cli.completion import recipe_names
from ttstrain.errors import RecipeError
from ttstrain.layout import labelled

recipes = typer.Typer(
    add_completion=False, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]}
)


@recipes.callback(invoke_without_command=True)
def _recipes(ctx: typer.Context) -> None:
    """List, show or copy the recipes that ship with ttstrain."""
    if ctx.invoked_subcommand is None:
        list_all()


@recipes.command("list")
def list_all() -> None:
    """List the recipes and what each is for: on a terminal in groups and within its width, else one line each."""
    from ttstrain.recipe.shipped import list_recipes

    entries = list_recipes()
    indent = max(len(entry.name) for entry in entries) + 2
    if sys.stdout.isatty():
        print("\n".join(_listing(indent + 2, shutil.get_terminal_size().columns)))
        return
    for entry in entries:
        print(f"{entry.name:{indent}}{entry.purpose}")


def _listing(indent: int, width: int) -> list[str]:
    """Return the recipes under headings, in lines of `width` columns; names take `indent` of them."""
    from ttstrain.plan.catalog import grouped, read_catalog

    lines: list[str] = []
    for title, entries in grouped(read_catalog()).items():
        lines += ["", *textwrap.wrap(title, max(width, indent + 20))]
        for entry in entries:
            name = f"  {entry.name}"
            lines += labelled(name, entry.purpose, column=indent, width=max(width, indent + 20), break_on_hyphens=True)
    following = "`ttstrain plan NAME` shows what a recipe does; `ttstrain new` writes one for your own data."
    return [*lines[1:], "", *textwrap.wrap(following, max(width, indent + 20))]


@recipes.command("show")
def show(name: Annotated[str, typer.Argument(help="A recipe's name.", autocompletion=recipe_names)]) -> None:
    """Print a recipe."""
    from ttstrain.recipe.shipped import find_recipe

    print(find_recipe(name).read_text(encoding="utf-8"), end="")


@recipes.command("migrate")
def migrate(
    project: Annotated[
        Path, typer.Argument(parser=paths.path, metavar="PROJECT", help="An upstream project's folder of checkpoints.")
    ],
    to: Annotated[
        Path | None, typer.Option("-o", "--out", parser=paths.path, help="File to write; by default printed.")
    ] = None,
) -> None:
    """Make a recipe from an upstream project's settings, and list what was changed and why."""
    from ttstrain.plan.project import settings_files, write_recipe
    from ttstrain.recipe.shipped import write_new

    if not project.is_dir():
        raise RecipeError(f"`{project}` is not a folder", hint="such as `ckpts/my_voice`, which holds setting.json")
    text = write_recipe(project.absolute())
    if text is None:
        hint = "; ".join(settings_files())
        raise RecipeError(f"`{project}` holds no settings that ttstrain knows", hint=hint)
    if to is None:
        print(text, end="")
        return
    write_new(to, text)
    print(to)


@recipes.command("copy")
def copy(
    name: Annotated[str, typer.Argument(help="A recipe's name.", autocompletion=recipe_names)],
    to: Annotated[
        Path | None, typer.Argument(parser=paths.path, help="File or folder to write; by default the current folder.")
    ] = None,
) -> None:
    """Copy a recipe, to be edited and run as `ttstrain finetune ./<name>.yaml`."""
    from ttstrain.recipe.shipped import SCHEMA_LINE, find_recipe, schema_path, write_new

    source = find_recipe(name)
    target = Path() if to is None else to
    if target.is_dir():
        target /= source.name
    schema = Path(os.path.relpath(schema_path(), target.parent)).as_posix()
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    lines = [f"{SCHEMA_LINE}{schema}\n" if line.startswith(SCHEMA_LINE) else line for line in lines]
    write_new(target, "".join(lines))
    print(target)
