"""`ttstrain plan`: show what a recipe would do, without training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ttstrain.cli.options import BaseOption, DataOption, Overrides, RecipeArgument, RunDirOption
from ttstrain.cli.progress import show_progress
from ttstrain.terminal import console

if TYPE_CHECKING:
    from ttstrain.plan.plan import Plan
    from ttstrain.recipe.compose import Composed


def plan(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    *,
    data: DataOption = None,
    base: BaseOption = None,
    run_dir: RunDirOption = None,
    nproc: Annotated[int, typer.Option(min=1, help="Number of processes to plan for.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print the plan as one JSON document.")] = False,
    yaml: Annotated[bool, typer.Option("--yaml", help="Print every value of the recipe with its origin.")] = False,
) -> None:
    """Show what RECIPE would do: data, steps, learning rates, memory, disk, and where each value comes from.

    `KEY=VALUE` overrides a key, such as `optim.lr=2e-5`. Nothing is trained; the data are checked.
    """
    from ttstrain.plan.project import with_project
    from ttstrain.recipe.compose import compose, with_flags

    if json and yaml:
        raise typer.BadParameter("give `--json` or `--yaml`, not both")
    composed = with_flags(compose(recipe, overrides or []), data=data, base=base, run_dir=run_dir)
    composed = with_project(composed)
    made = make_plan(composed, world_size=nproc)
    if json:
        print_json(made)
    elif yaml:
        from ttstrain.plan.render import recipe_yaml

        print(recipe_yaml(made), end="")
    else:
        print_plan(made)


def show_plan(composed: Composed, *, world_size: int = 1) -> None:
    """Print the plan of a composed recipe, for `finetune --dry-run`."""
    print_plan(make_plan(composed, world_size=world_size))


def make_plan(composed: Composed, *, world_size: int = 1) -> Plan:
    """Check the recipe and its data and resolve both into a plan."""
    from ttstrain.plan.facts import gather_facts
    from ttstrain.plan.resolve import parse, resolve

    recipe = parse(composed)
    if recipe.base is not None:
        from ttstrain.checkpoint.merging import check_base

        check_base(recipe)
    with show_progress("checking recordings") as progress:
        facts = gather_facts(recipe, progress)
    return resolve(recipe, origins=composed.origins, facts=facts, world_size=world_size, source_name=composed.name)


def print_plan(made: Plan) -> None:
    """Print a plan for people."""
    from ttstrain.plan.render import render_plan

    render_plan(made, console())


def print_json(made: Plan) -> None:
    """Print a plan for scripts."""
    from json import dumps

    print(dumps(made.to_json(), indent=1, ensure_ascii=False))
