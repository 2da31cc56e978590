"""`ttstrain tune`: measure the settings of a recipe that suit this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ttstrain.cli import paths
from ttstrain.cli.options import BaseOption, DataOption, Overrides, RecipeArgument
from ttstrain.cli.progress import show_progress
from ttstrain.layout import labelled

if TYPE_CHECKING:
    from ttstrain.recipe.compose import Composed
    from ttstrain.trial.fit import Fit
    from ttstrain.trial.tune import Tuned

CONFIG, PICTURE = "overrides.yaml", "tune.svg"


def tune(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    *,
    data: DataOption = None,
    base: BaseOption = None,
    fit: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Find the largest budget for this memory, such as 12GB.")
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", parser=paths.path, help="Folder for the overrides and the picture.")
    ] = Path("tuned"),
) -> None:
    """Measure what suits this machine: the largest budget for a memory, loader processes, an LR for each group.

    A few steps of RECIPE are taken on its data, in a folder that is thrown away. Writes overrides that a recipe can
    extend, and a picture of what was measured.
    """
    from ttstrain.data import atomic
    from ttstrain.plan.project import with_project
    from ttstrain.recipe.compose import compose, with_flags
    from ttstrain.trial.memory import read_size
    from ttstrain.trial.picture import draw
    from ttstrain.trial.tune import tune as measure

    def composed(more: Sequence[str]) -> Composed:
        return with_project(with_flags(compose(recipe, [*(overrides or []), *more]), data=data, base=base))

    limit = None if fit is None else read_size(fit)
    found = measure(composed, limit=limit, show=show_progress)
    atomic.write_text(output / CONFIG, found.config)
    atomic.write_text(output / PICTURE, draw(found))
    print("\n".join([*lines(found), *labelled("written", f"{output / CONFIG}, {output / PICTURE}")]))


def lines(found: Tuned) -> list[str]:
    """Lay out what was measured for people, in 80 columns."""
    from ttstrain.shell import quoted
    from ttstrain.trial.lr_words import held_in_words, in_words
    from ttstrain.trial.overrides import as_arguments
    from ttstrain.trial.workers import processes

    said = labelled("tuned", f"{found.name} on {found.device}")
    said += [] if found.fit is None else fit_lines(found.fit)
    said += labelled("workers", f"{processes(found.workers)}: waiting for data takes {in_turn(found)} of a step's time")
    for number, curve in enumerate(found.curves):
        said += labelled("lr" if number == 0 else "", f"{curve.key}: {in_words(curve)}", hang=2)
    if found.together is not None:
        said += labelled("", held_in_words(found.together))
    arguments = as_arguments(found.overrides)
    return said + labelled("set", quoted(*arguments) if arguments else "nothing: the recipe's settings suit")


def in_turn(found: Tuned) -> str:
    """Say how long a step waited for data, with each number of loader processes if several were tried."""
    if len(found.waits) == 1:
        return f"{100 * found.waits[0].share:.1f} %"
    return ", ".join(f"{100 * one.share:.1f} % with {one.workers}" for one in found.waits)


def fit_lines(found: Fit) -> list[str]:
    """Say which budget fits, and what was tried."""
    from ttstrain.plan.render import shown_bytes

    tried = ", ".join(
        f"{one.budget:,} {'failed' if one.failed else shown_bytes(one.memory)}"
        for one in sorted(found.tried, key=lambda one: one.budget)
    )
    why = "" if found.bound == "memory" else "; no micro-batch of these data can be larger"
    return [
        *labelled(
            "fit",
            f"data.batch_frames={found.budget}: its largest micro-batches take {shown_bytes(found.memory)} of "
            f"{shown_bytes(found.room)}{why}",
        ),
        *labelled("", f"tried: {tried}"),
    ]
