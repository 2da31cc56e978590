"""`ttstrain doctor`: what is wrong with a data set, in plain words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ttstrain.cli import paths
from ttstrain.cli.completion import recipe_names
from ttstrain.cli.progress import show_progress
from ttstrain.errors import DataError
from ttstrain.layout import LABEL, labelled
from ttstrain.shell import quoted

if TYPE_CHECKING:
    from ttstrain.contract.model import ResolvedRecipe
    from ttstrain.data.audit import AuditResult
    from ttstrain.data.doctor import Diagnosis

MOST = 8  # problems that are shown in full
VERDICTS = {
    "good": "good: nothing to do",
    "usable": "can be trained on; better with the following mended, the worst first",
    "bad": "NOT READY: mend the following first, the worst first",
}


def doctor(
    data: Annotated[
        Path,
        typer.Argument(parser=paths.path, metavar="DATA", help="Recordings: folder, table or package:voice."),
    ],
    *,
    recipe: Annotated[
        str, typer.Option(help="Also check what this recipe needs, such as its symbols.", autocompletion=recipe_names)
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Listen through DATA and say what is wrong with it, worst first, and what to do.

    Nothing is changed. Exit code 3 if the data cannot be trained on as they are, else 0. `ttstrain prepare` lists every
    clip.
    """
    from ttstrain.data.doctor import diagnose

    wanted = _recipe(recipe, data) if recipe else None
    result, refused = _look(wanted, data)
    found = diagnose(result, refused=refused)
    if json:
        from json import dumps

        print(dumps({"path": str(result.root), "format": result.format, **found.to_json()}, indent=1))
    else:
        print("\n".join(lines(found, result, data, recipe=recipe)))
    if found.verdict == "bad":
        raise DataError(f"`{data}` is not ready for training", hint=f"first: {found.problems[0].do}")


def _recipe(name: str, data: Path) -> ResolvedRecipe:
    from ttstrain.plan.project import with_project
    from ttstrain.plan.resolve import parse
    from ttstrain.recipe.compose import compose, with_flags

    return parse(with_project(with_flags(compose(name), data=data)))


def _look(wanted: ResolvedRecipe | None, data: Path) -> tuple[AuditResult, str]:
    """Audit the data, for a recipe if there is one; return the result, and why the recipe refuses the texts."""
    from ttstrain.data.audit import audit
    from ttstrain.data.readers import read_rows
    from ttstrain.data.texts import read_texts
    from ttstrain.plan.facts import front_end_of, review_data
    from ttstrain.recipe.schema import DataConfig

    config = DataConfig(path=str(data)) if wanted is None else wanted.data
    with show_progress("listening") as progress:
        result = audit(read_rows(str(data), config.format, cache_dir=config.cache_dir), config, progress)
    if wanted is None:
        return result, ""
    result, front_end = review_data(wanted, result), front_end_of(wanted)
    texts = None if front_end is None else read_texts(result.clips, front_end)
    if texts is None or not texts.refused:
        return result, ""
    return result, "the texts hold more symbols that the model's vocabulary lacks than `model.max_unknown` allows"


def lines(found: Diagnosis, result: AuditResult, data: Path, *, recipe: str) -> list[str]:
    """Lay a diagnosis out for people, in 80 columns."""
    from ttstrain.data.formats import labels

    named = f"{data} ({labels()[result.format]})"
    rows = f"{found.used:,} of {found.rows:,} rows can be used, {_length(found.seconds)} of speech"
    laid_out = [*labelled("data", named), *labelled("", rows), *labelled("verdict", VERDICTS[found.verdict])]
    for number, problem in enumerate(found.problems[:MOST], start=1):
        laid_out += ["", *labelled(f"{number:>2}.", f"{problem.said}.", column=4)]
        for example in problem.examples:
            laid_out += labelled("", example, column=6, hang=2, break_words=True, break_on_hyphens=True)
        laid_out += labelled("    do:", problem.do, column=8)
    if rest := found.problems[MOST:]:
        laid_out += ["", *labelled("", f"and {len(rest)} more kinds: `ttstrain prepare` shows all", column=4)]
    if found.mended:
        counts = ", ".join(f"{count} {reason}" for reason, count in found.mended.items())
        laid_out += ["", *labelled("also", f"repaired or noted, nothing to do: {counts}")]
    words: tuple[object, ...] = ("prepare", data) if found.verdict == "bad" else ("new", "--data", data)
    if recipe and found.verdict != "bad":
        words = ("plan", recipe, "--data", data)
    return [*laid_out, "", f"{'next':{LABEL}}{quoted('ttstrain', *words)}"]


def _length(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.1f} minutes" if seconds < 3600 else f"{seconds / 3600:.1f} hours"
