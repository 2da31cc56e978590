"""What a plan must know about the data: found by the audit, without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ttstrain import families
from ttstrain.config.plan import DataFacts
from ttstrain.config.recipe import Recipe

if TYPE_CHECKING:
    from ttstrain.data.manifest import Clip


def count_frames(
    recipe: Recipe,
    *,
    train: Sequence[Clip],
    held_out: Sequence[Clip],
    skipped: Mapping[str, int],
    fixed: Mapping[str, int],
) -> DataFacts:
    """Measure audited clips in the task's frames and divide them into the micro-batches of the first epoch."""
    from ttstrain.data.sampler import overlong, padding_share, plan_epoch

    config = families.find_task(recipe.task).config.model_validate(recipe.model)
    frames = tuple(config.length(clip) for clip in train)
    too_long = set(overlong(frames, budget=recipe.data.batch_frames))
    fitting = [i for i in range(len(train)) if i not in too_long]
    lengths = [frames[i] for i in fitting]
    batches = plan_epoch(
        lengths,
        budget=recipe.data.batch_frames,
        max_clips=recipe.data.max_clips,
        seed=recipe.train.seed,
        epoch=0,
    )
    return DataFacts(
        num_clips=len(fitting),
        hours=sum(train[i].duration_s for i in fitting) / 3600,
        num_holdout=len(held_out),
        skipped=dict(skipped),
        fixed=dict(fixed),
        frames=frames,
        batches_per_epoch=len(batches),
        padding_share=padding_share(lengths, batches),
        overlong=tuple(train[i].id for i in sorted(too_long)),
    )
