"""`ttstrain plan`: show what a recipe would do, without training."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from ttstrain.cli.options import BaseOption, DataOption, Overrides, RecipeArgument, RunDirOption
from ttstrain.cli.progress import show_progress
from ttstrain.errors import RecipeError
from ttstrain.terminal import console

if TYPE_CHECKING:
    from ttstrain.forecast.costs import Costs
    from ttstrain.forecast.forecast import Forecast
    from ttstrain.plan.plan import Plan
    from ttstrain.recipe.compose import Composed
    from ttstrain.rehearsal.step import Rehearsal


def plan(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    *,
    data: DataOption = None,
    base: BaseOption = None,
    run_dir: RunDirOption = None,
    nproc: Annotated[int, typer.Option(min=1, help="Number of processes to plan for.")] = 1,
    trial: Annotated[
        bool, typer.Option("--trial", help="Try a few steps to forecast time, memory and disk; no run is made.")
    ] = False,
    fit: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Try which largest budget fits this memory, such as 12GB; plan with it."),
    ] = None,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Rehearse a step on a GPU that is not there: what memory it takes.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the plan as one JSON document.")] = False,
    yaml: Annotated[bool, typer.Option("--yaml", help="Print every value of the recipe with its origin.")] = False,
) -> None:
    """Show what RECIPE would do: data, steps, learning rates, memory, disk, and where each value comes from.

    `KEY=VALUE` overrides a key, such as `optim.lr=2e-5`. Nothing is trained; the data are checked. How long the run
    will take is known from `--trial`, or from the last run of the recipe on this machine. `--rehearse` needs no GPU.
    """
    from ttstrain.plan.project import with_project
    from ttstrain.recipe.compose import compose, with_flags

    if json and yaml:
        raise typer.BadParameter("give `--json` or `--yaml`, not both")
    if rehearse and yaml:
        raise typer.BadParameter("give `--rehearse` with `--json` or alone: a recipe does not hold what is rehearsed")
    if rehearse and (trial or fit is not None):
        raise RecipeError(
            "a rehearsal and a trial cannot share a process: torch is told of another GPU",
            hint="give `--rehearse` alone",
        )
    if (trial or fit is not None) and nproc > 1:
        raise RecipeError("a trial is made by one process", hint="give `--trial` and `--fit` without `--nproc`")

    def composed_with(more: Sequence[str]) -> Composed:
        given = compose(recipe, [*(overrides or []), *more])
        return with_project(with_flags(given, data=data, base=base, run_dir=run_dir))

    composed = composed_with([])
    if fit is not None:
        composed = composed_with(_fitting(composed, fit))
    made, costs = _try(composed) if trial else (make_plan(composed, world_size=nproc), None)
    rehearsed = _rehearse(made) if rehearse else None
    if json:
        print_json(made, _forecast(made, costs), rehearsed)
    elif yaml:
        from ttstrain.plan.render import recipe_yaml

        print(recipe_yaml(made), end="")
    else:
        print_plan(made, _forecast(made, costs), rehearsed)


def _rehearse(made: Plan) -> list[Rehearsal]:
    """Rehearse a step over the largest micro-batches of the data."""
    from ttstrain.rehearsal.clips import heaviest_clips
    from ttstrain.rehearsal.step import precision_on_gpu, rehearse

    return rehearse(made, heaviest_clips(made.recipe), precision=precision_on_gpu(made))


def _fitting(composed: Composed, size: str) -> list[str]:
    """Find the largest budget that fits, say so on stderr, and return the overrides that set it."""
    from ttstrain.cli.tune import fit_lines
    from ttstrain.trial.memory import read_size
    from ttstrain.trial.overrides import as_arguments
    from ttstrain.trial.tune import find_budget

    found, overrides = find_budget(composed, read_size(size), show=show_progress)
    for line in fit_lines(found):
        print(line, file=sys.stderr)
    return as_arguments(overrides)


def _try(composed: Composed) -> tuple[Plan, Costs]:
    """Make a trial; return the plan of the run that was meant, and what the trial measured."""
    from ttstrain.plan.resolve import parse
    from ttstrain.trial.trial import make_trial

    found = make_trial(composed, show=show_progress)
    recipe = parse(composed)
    return replace(found.plan, recipe=recipe, name=recipe.name or composed.name), found.costs


def _forecast(plan: Plan, costs: Costs | None = None) -> Forecast | None:
    """Forecast a run by these costs, by default the latest that this machine knows."""
    from ttstrain.forecast import ledger
    from ttstrain.forecast.forecast import forecast

    return forecast(plan, costs or ledger.look_up(plan))


def show_plan(composed: Composed, *, world_size: int = 1) -> None:
    """Print the plan of a composed recipe, for `finetune --dry-run`."""
    made = make_plan(composed, world_size=world_size)
    print_plan(made, _forecast(made))


def make_plan(composed: Composed, *, world_size: int = 1) -> Plan:
    """Check the recipe and its data and resolve both into a plan."""
    from ttstrain.plan.facts import gather_facts
    from ttstrain.plan.gpu import gpu_memory
    from ttstrain.plan.resolve import parse, resolve
    from ttstrain.plan.sharding import NO_GPU, Room

    recipe = parse(composed)
    if recipe.base is not None:
        from ttstrain.checkpoint.merging import check_base

        check_base(recipe)
    with show_progress("checking recordings") as progress:
        facts = gather_facts(recipe, progress)
    return resolve(
        recipe,
        origins=composed.origins,
        facts=facts,
        world_size=world_size,
        source_name=composed.name,
        room=Room(gpu_memory()) if recipe.train.parallel.shard == "auto" else NO_GPU,
    )


def print_plan(made: Plan, found: Forecast | None, rehearsed: list[Rehearsal] | None = None) -> None:
    """Print a plan, its forecast and what was rehearsed, for people."""
    from ttstrain.forecast.forecast import forecast_lines
    from ttstrain.plan.render import render_plan

    lines = forecast_lines(found)
    if rehearsed is not None:
        from ttstrain.rehearsal.shown import rehearsal_lines

        lines = [*rehearsal_lines(rehearsed, made), *lines]
    render_plan(made, console(), forecast=lines)


def print_json(made: Plan, found: Forecast | None, rehearsed: list[Rehearsal] | None = None) -> None:
    """Print a plan, its forecast, null where there is none, and what was rehearsed, for scripts."""
    from json import dumps

    values = {**made.to_json(), "forecast": None if found is None else found.to_json()}
    if rehearsed is not None:
        from ttstrain.rehearsal.shown import rehearsal_json

        values["rehearsal"] = rehearsal_json(rehearsed)
    print(dumps(values, indent=1, ensure_ascii=False))
