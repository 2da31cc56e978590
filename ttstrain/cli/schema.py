"""`ttstrain schema`: print the JSON Schema of recipes, for editors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ttstrain.cli import paths


def schema(
    out: Annotated[
        Path | None, typer.Option("--out", "-o", parser=paths.path, help="Write to this file instead of stdout.")
    ] = None,
) -> None:
    """Print the JSON Schema of a recipe.

    A recipe's first line `# yaml-language-server: $schema=<file>` lets an editor complete and check its keys.
    """
    import json

    from ttstrain.errors import RecipeError
    from ttstrain.plan.json_schema import recipe_schema

    text = json.dumps(recipe_schema(), indent=1, ensure_ascii=False) + "\n"
    if out is None:
        print(text, end="")
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"cannot write `{out}`: {error.strerror}") from error
