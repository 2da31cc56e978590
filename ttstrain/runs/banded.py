"""Settle, when a run starts, which reference runs its curves will be compared with."""

from __future__ import annotations

from ttstrain.bands.band import find_band
from ttstrain.bands.facts import Facts, gather_facts, why_not_comparable
from ttstrain.bands.outcome import Outcome, write_outcome
from ttstrain.checkpoint import base_record
from ttstrain.errors import RecipeError
from ttstrain.runs.assemble import Ready
from ttstrain.runs.base import front_end_of


def facts_of(ready: Ready) -> Facts:
    """Collect what a run trains; its base must be recorded in its folder."""
    run, prepared = ready.run, ready.prepared
    record = base_record.read(run.folder)
    return gather_facts(
        run.plan.recipe,
        [*prepared.train, *prepared.held_out],
        base="" if record is None else record.sha256,
        trained=sum(group.num_parameters for group in run.optimizers.table.groups),
        world_size=run.ranks.world_size,
        front_end=front_end_of(run),
    )


def settle_band(ready: Ready, recipe_name: str) -> list[str]:
    """Write into the run's folder what it trains, and why it cannot be compared where that is so; return notes.

    Nothing is written for a recipe that has no band. For the main process.
    """
    try:
        band = find_band(recipe_name)
    except RecipeError as error:
        return [f"the run is not compared with reference runs: {error.message}"]
    if band is not None:
        facts = facts_of(ready)
        write_outcome(ready.run.folder, Outcome(recipe_name, facts, why_not_comparable(facts, band.facts)))
    return []
