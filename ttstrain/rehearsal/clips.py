"""The clips of a recipe's data whose micro-batches need the most memory."""

from __future__ import annotations

from ttstrain import registry
from ttstrain.contract.data import Clip
from ttstrain.contract.model import ResolvedRecipe
from ttstrain.data import sampler
from ttstrain.data.split import split_data
from ttstrain.errors import DataError
from ttstrain.plan.facts import audit_data


def heaviest_clips(recipe: ResolvedRecipe) -> list[list[Clip]]:
    """Return the micro-batch with the longest clips and the one with the most frames; one where they are the same.

    Audits the data, which a plan has done before and a cache remembers. Raises DataError where no clip fits.
    """
    audited = audit_data(recipe)
    split = split_data(audited.data.clips, audited.replay_clips, recipe.data, seed=recipe.train.seed)
    clips = [*split.train, *split.replay]
    planner = registry.planner_of(recipe)
    found = sampler.heaviest(
        [planner.length(clip) for clip in clips],
        budget=recipe.data.batch_frames,
        max_clips=recipe.data.max_clips,
        packed=planner.packed,
    )
    if not found:
        raise DataError(
            f"no clip fits a micro-batch of {recipe.data.batch_frames:,} frames",
            hint="raise `data.batch_frames`, or leave long clips out (`data.max_s`)",
        )
    return [[clips[i] for i in batch] for batch in found]
