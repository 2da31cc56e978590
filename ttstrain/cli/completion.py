"""What a shell offers when the tab key is pressed: `ttstrain --install-completion` sets it up."""

from __future__ import annotations

from collections.abc import Iterator

from ttstrain.errors import UserError


def recipe_names(incomplete: str) -> Iterator[tuple[str, str]]:
    """Yield the shipped recipes whose names begin so, each with its purpose. Files are the shell's own to offer."""
    from ttstrain.recipe.shipped import list_recipes

    for entry in list_recipes():
        if entry.name.startswith(incomplete):
            yield entry.name, entry.purpose


def recipe_keys(incomplete: str) -> Iterator[str]:
    """Yield the keys of a recipe that begin so, as `optim.lr=`; nothing once the value is being written."""
    if "=" in incomplete:
        return
    from ttstrain.plan.complaints import known_keys
    from ttstrain.recipe.schema import Recipe

    try:
        known = known_keys(Recipe)
    except UserError:  # a shell has no place for an error
        return
    yield from (f"{key}=" for key in known if key.startswith(incomplete) and "*" not in key)
