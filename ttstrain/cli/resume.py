"""`ttstrain resume`: continue a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ttstrain.cli import paths
from ttstrain.cli.completion import recipe_keys
from ttstrain.cli.options import MAX_RESTARTS, MaxRestartsOption, NprocOption
from ttstrain.cli.progress import show_progress


def resume(
    run: Annotated[
        Path,
        typer.Argument(
            parser=paths.path, metavar="RUN", help="A run's folder, a checkpoint, an upstream training file or project."
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Overrides of recipe keys.", autocompletion=recipe_keys),
    ] = None,
    *,
    reset_step: Annotated[bool, typer.Option("--reset-step", help="Restart the step counter and LR schedule.")] = False,
    reset_optimizer: Annotated[bool, typer.Option("--reset-optimizer", help="Discard the optimizer state.")] = False,
    checkpoint: Annotated[
        Path | None, typer.Option("--from", parser=paths.path, help="Checkpoint to continue from.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="Recipe for an upstream training file.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            parser=paths.path, help="Training recordings: the new place of a run's, or those for an upstream file."
        ),
    ] = None,
    base: Annotated[
        list[str] | None, typer.Option(help="The new place of the base that a run's adapters were trained on.")
    ] = None,
    nproc: NprocOption = 1,
    max_restarts: MaxRestartsOption = MAX_RESTARTS,
) -> None:
    """Continue RUN exactly from its last checkpoint.

    `--reset-step` keeps weights, EMA weights and optimizer state, restarts the step counter and the LR schedule, and
    writes to a new folder beside the run's. `KEY=VALUE` changes the recipe from here on, such as `train.steps=2000`.
    """
    if nproc > 1:
        from ttstrain.runs.launch import launch

        flags = [("--reset-step", reset_step), ("--reset-optimizer", reset_optimizer)]
        arguments = ["resume", str(run), *(overrides or []), *(name for name, given in flags if given)]
        arguments += ["--from", str(checkpoint)] if checkpoint is not None else []
        arguments += ["--recipe", recipe] if recipe is not None else []
        arguments += ["--data", str(data)] if data is not None else []
        arguments += [part for file in base or [] for part in ("--base", file)]
        raise typer.Exit(launch(arguments, nproc=nproc, max_restarts=max_restarts))

    from ttstrain.runs.resume import resume as resume_run

    resume_run(
        run,
        overrides or [],
        reset_step=reset_step,
        reset_optimizer=reset_optimizer,
        checkpoint=checkpoint,
        recipe=recipe,
        data=data,
        base=base,
        show=show_progress,
    )
