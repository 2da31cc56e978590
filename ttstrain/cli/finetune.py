"""`ttstrain finetune`: start a new run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ttstrain.cli.options import (
    MAX_RESTARTS,
    BaseOption,
    DataOption,
    MaxRestartsOption,
    NprocOption,
    Overrides,
    RecipeArgument,
    RunDirOption,
)
from ttstrain.cli.progress import show_progress


def finetune(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    *,
    data: DataOption = None,
    base: BaseOption = None,
    run_dir: RunDirOption = None,
    nproc: NprocOption = 1,
    max_restarts: MaxRestartsOption = MAX_RESTARTS,
    profile: Annotated[
        int | None, typer.Option(min=1, max=1000, metavar="STEPS", help="Profile so many steps (`debug.profile`).")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and exit.")] = False,
) -> None:
    """Fine-tune a model with RECIPE; `KEY=VALUE` overrides a key, such as `optim.lr=2e-5`.

    A run starts from the `base` weights at step 0, with empty optimizer state. `ttstrain resume` continues a run.
    """
    from ttstrain.plan.project import with_project
    from ttstrain.plan.resolve import parse
    from ttstrain.recipe.compose import compose, with_flags
    from ttstrain.train.launched import attempt, first_speaks

    overrides = [*(overrides or []), *([] if profile is None else [f"debug.profile={profile}"])]
    with first_speaks():
        composed = with_flags(compose(recipe, overrides), data=data, base=base, run_dir=run_dir)
        composed = with_project(composed)
        parse(composed)  # refuse a bad recipe before any process is started
    if dry_run:
        from ttstrain.cli.plan import show_plan

        show_plan(composed, world_size=nproc)
        return

    if nproc > 1:
        from ttstrain.runs.launch import launch

        arguments = _arguments(recipe, overrides, data=data, base=base, run_dir=run_dir)
        raise typer.Exit(launch(arguments, nproc=nproc, max_restarts=max_restarts))

    if attempt() > 0:
        from ttstrain.runs.resume import start_again

        start_again(composed, show=show_progress)
        return

    from ttstrain.runs.new import start

    start(composed, show=show_progress)


def _arguments(
    recipe: str, overrides: list[str], *, data: Path | None, base: list[str] | None, run_dir: Path | None
) -> list[str]:
    """Rebuild the command line for each process of a launch."""
    flags = {"--data": data, "--run-dir": run_dir}
    given = [part for flag, value in flags.items() if value is not None for part in (flag, str(value))]
    given += [part for path in base or [] for part in ("--base", path)]
    return ["finetune", recipe, *overrides, *given]
