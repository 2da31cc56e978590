"""`ttstrain prove`: check before a run that what is trained is what will speak."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ttstrain.cli.options import BaseOption, DataOption, Overrides, RecipeArgument
from ttstrain.cli.progress import show_progress
from ttstrain.errors import UnprovenError
from ttstrain.layout import WIDTH, labelled

if TYPE_CHECKING:
    from ttstrain.prove.finding import Proven

COLUMN = 20  # where the sentences begin


def prove(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    *,
    data: DataOption = None,
    base: BaseOption = None,
    seconds: Annotated[
        float, typer.Option(min=1, help="Time for all checks, about; what does not fit is named.")
    ] = 100,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Check that the net that RECIPE trains is the net that will speak, before hours are spent on it.

    A few clips of the data are used and one of them is learned by heart; nothing is kept. The checks: base weights,
    EMA, terms and gradients of the losses, leaks, shifted targets, and an export that is read back. A fault ends with
    exit code 1.
    """
    from ttstrain.plan.project import with_project
    from ttstrain.prove.prove import prove as check
    from ttstrain.recipe.compose import compose, with_flags

    composed = with_project(with_flags(compose(recipe, overrides or []), data=data, base=base))
    found = check(composed, seconds=seconds, show=show_progress)
    if json:
        from json import dumps

        print(dumps(found.to_json(), indent=1, ensure_ascii=False, allow_nan=False))
    else:
        print("\n".join(lines(found)))
    if faults := found.faults:
        raise UnprovenError(
            f"not proven: {', '.join(f'`{finding.check}`' for finding in faults)} "
            f"{'has a fault' if len(faults) == 1 else 'have faults'}",
            hint="do not train with this; the fault is in ttstrain or the family: please report the lines above "
            "together with the output of `ttstrain env`",
        )


def lines(found: Proven) -> list[str]:
    """Lay out the findings and the table of gradient norms for people."""
    head = f"{found.task}, {found.steps} steps on the clip `{found.clip}`, {found.clips} clips in all"
    laid_out = [*labelled(found.recipe, f"{head}, {found.seconds:.0f} s", column=len(found.recipe) + 2), ""]
    for finding in found.findings:
        laid_out += labelled(f"{finding.verdict:9}{finding.check}", finding.said, column=COLUMN)
    if found.table:
        laid_out += ["", "gradient norm of each term in each parameter group (tensors)", *_table(found.table)]
    return [*laid_out, "", _summary(found)]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay out rows under their header, in blocks of as many columns as a line holds."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    blocks: list[list[int]] = [[]]
    for column, width in enumerate(widths[1:], start=1):
        taken = widths[0] + sum(2 + widths[other] for other in blocks[-1])
        if blocks[-1] and taken + 2 + width > WIDTH:
            blocks.append([])
        blocks[-1].append(column)
    return [
        "  ".join([row[0].ljust(widths[0]), *(row[column].rjust(widths[column]) for column in block)])
        for block in blocks
        for row in rows
    ]


def _summary(found: Proven) -> str:
    skipped = [finding.check for finding in found.findings if finding.verdict == "skipped"]
    if found.faults:
        return f"{len(found.faults)} of {len(found.findings)} checks found a fault"
    if not skipped:
        return "proven: every check passed"
    return "\n".join(labelled("proven:", f"no check found a fault; not checked: {', '.join(skipped)}", width=WIDTH))
