"""The names of the voices that a run was trained on."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ttstrain.data.manifest import read_manifest
from ttstrain.errors import RecipeError
from ttstrain.recipe.compose import RUN_RECIPE, load_yaml

MOST_NAMES = 12


def check_voice_name(name: str, *, run: Path, published: Sequence[str]) -> None:
    """Raise RecipeError when a run is asked for a voice that it was not trained on.

    A run that started from a base also has the `published` voices. If its clips named no voice, any name is allowed.
    """
    own = names_of_run(run)
    base = tuple(published) if load_yaml(run / RUN_RECIPE).get("base") else ()
    if not own or name in (*own, *base):
        return
    close = difflib.get_close_matches(name, (*own, *base), n=1)
    more = f" and {len(own) - MOST_NAMES} more" if len(own) > MOST_NAMES else ""
    raise RecipeError(
        f"this run has no voice `{name}`" + (f": did you mean `{close[0]}`?" if close else ""),
        hint=f"it was trained on {', '.join(own[:MOST_NAMES])}{more}"
        + (f"; published weights have {', '.join(base)}" if base else ""),
    )


def names_of_run(run: Path) -> tuple[str, ...]:
    """Return the names of a run's voices, those with the most clips first."""
    counts: Counter[str] = Counter()
    for name in ("train", "held_out"):
        manifest = run / "data" / f"{name}.jsonl"
        if manifest.is_file():
            counts.update(clip.speaker for clip in read_manifest(manifest) if clip.speaker)
    return tuple(name for name, _ in counts.most_common())
