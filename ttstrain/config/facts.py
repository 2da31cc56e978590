"""What a plan must know about the data: found by the audit, without torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ttstrain import families
from ttstrain.config.plan import DataFacts
from ttstrain.config.recipe import Recipe
from ttstrain.errors import RecipeError

if TYPE_CHECKING:
    from ttstrain.data.audit import AuditResult
    from ttstrain.data.manifest import Clip
    from ttstrain.data.texts import FrontEnd, TextReport


def gather_facts(recipe: Recipe, progress: Callable[[int, int], None] | None = None) -> DataFacts:
    """Audit the recipe's data and measure what a plan depends on; `progress` is told (done, of) recordings."""
    from ttstrain.data.split import split_holdout

    front_end_of(recipe)  # what is missing for it is said before any recording is read
    result = audit_data(recipe, progress)
    split = split_holdout(result.clips, recipe.data.holdout, recipe.train.seed)
    return count_frames(recipe, train=split.train, held_out=split.held_out, skipped=result.skipped, fixed=result.fixed)


def audit_data(recipe: Recipe, progress: Callable[[int, int], None] | None = None) -> AuditResult:
    """Audit the data that a recipe names.

    Raises RecipeError when it names none, DataError when they cannot be used.
    """
    from ttstrain.data.audit import audit
    from ttstrain.data.readers import read_rows

    data = recipe.data
    if data.path is None:
        raise RecipeError(
            "the recipe names no data", hint="give a folder of recordings or its table with `--data PATH`"
        )
    return audit(read_rows(data.path, data.format, cache_dir=data.cache_dir), data, progress)


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
        packed=config.packed,
    )
    return DataFacts(
        num_clips=len(fitting),
        hours=sum(train[i].duration_s for i in fitting) / 3600,
        num_holdout=len(held_out),
        skipped=dict(skipped),
        fixed=dict(fixed),
        frames=frames,
        batches_per_epoch=len(batches),
        padding_share=padding_share(lengths, batches, packed=config.packed),
        overlong=tuple(train[i].id for i in sorted(too_long)),
        texts=report_texts(recipe, [*train, *held_out]),
    )


def report_texts(recipe: Recipe, clips: Sequence[Clip]) -> TextReport | None:
    """Read the clips' texts as the task does; None where its family has no front end to tell of."""
    from ttstrain.data.texts import read_texts

    front_end = front_end_of(recipe)
    return None if front_end is None else read_texts((clip.text for clip in clips), front_end)


def front_end_of(recipe: Recipe) -> FrontEnd | None:
    """Return what turns texts into tokens. Raises RecipeError when something it needs is missing."""
    return families.find_task(recipe.task).config.model_validate(recipe.model).front_end()
