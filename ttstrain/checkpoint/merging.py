"""Open the files of a base, check them against a recipe, and say what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import torch

from ttstrain import registry
from ttstrain.checkpoint.parts import merge
from ttstrain.checkpoint.reading import retried
from ttstrain.checkpoint.upstream import open_checkpoint, open_files, resolve_base
from ttstrain.contract.checkpoint import Absent, OpenedCheckpoint
from ttstrain.contract.model import ResolvedRecipe
from ttstrain.contract.task import AddsTokens, Task
from ttstrain.errors import CheckpointError, RecipeError
from ttstrain.recipe.schema import base_files
from ttstrain.recipe.shipped import base_path
from ttstrain.tensors import hub
from ttstrain.tensors.loading import LoadReport, Tensors, check_stored_finite, compare, misfit


def open_base(files: Sequence[str], *, task: str) -> OpenedCheckpoint:
    """Open the files that a recipe's `base:` names, and what belongs to them; the later win, tensor by tensor."""
    return open_files(files, task=task, open_file=lambda spec: _open(spec, task=task))


def _open(spec: str, *, task: str) -> OpenedCheckpoint:
    if spec.startswith(hub.HUB):
        return open_checkpoint(resolve_base(spec), task=task)
    place = base_path(spec)  # the best checkpoint of a run that is training may be replaced while it is read
    return retried(place, lambda: open_checkpoint(resolve_base(spec), task=task), prefer="best")


def open_for(recipe: ResolvedRecipe) -> OpenedCheckpoint:
    """Open a recipe's base and compare the architecture it states with the recipe's `model:`."""
    opened = open_base(base_files(recipe.base), task=recipe.task)
    opened.check_model(recipe.section())
    return opened


def check_base(recipe: ResolvedRecipe) -> None:
    """Check a recipe's base as the run itself would, except for what needs the device.

    Nothing is downloaded. The model is built without data (meta tensors), and the base is read tensor by tensor.

    Raises CheckpointError as a run would: a file is missing or damaged, of another family, model or version, not the
    whole model or more than it, not finite, or of a vocab, a tokenizer or a quantizer that does not go with the
    recipe's. A base on the Hub is not checked.
    """
    files = base_files(recipe.base)
    if any(spec.startswith(hub.HUB) for spec in files):
        for spec in files:
            if not spec.startswith(hub.HUB):
                open_checkpoint(resolve_base(spec), task=recipe.task)
        return
    opened = open_for(recipe)
    trained = registry.find_task(recipe.task)
    with hub.nothing_fetched():
        with torch.device("meta"):
            task = trained.build(recipe.model)
        fitted = task.fitted(opened)
    check_fits(task, fitted.weights, opened)
    first = task.embeddings_first() if isinstance(task, AddsTokens) else None
    if first is not None and not any(fitted.new_embeddings.get(table) for table in first.tables):
        raise no_new_embeddings()
    check_stored_finite(fitted.weights, source=opened.source)


def check_fits(task: Task, weights: Tensors, opened: OpenedCheckpoint) -> None:
    """Compare a base's tensors with a task's. Raises CheckpointError that names the files with missing tensors."""
    report = compare(task, weights, source=opened.source)
    if not report.perfect:
        raise explain(report, opened) or misfit(report)


def no_new_embeddings() -> RecipeError:
    """Make the error of `model.first_new_rows` for a base without new embeddings."""
    return RecipeError(
        "`model.first_new_rows` has nothing to train: the base has an embedding for every token",
        hint="leave `model.first_new_rows` out",
    )


def open_training(opened: OpenedCheckpoint, *, task: str) -> OpenedCheckpoint:
    """Add to a training file the files beside it that hold the rest of the same training."""
    merged = merge([opened, *(open_checkpoint(path, task=task) for path in opened.partners)])
    return replace(merged, kind=opened.kind, step=opened.step, schedule=opened.schedule)


def explain(report: LoadReport, opened: OpenedCheckpoint) -> CheckpointError | None:
    """Make the error that names missing files, if nothing else is wrong in a load report; else None."""
    if report.unexpected or report.mismatched or not report.missing:
        return None
    reasons: dict[Absent, int] = {}
    for name in report.missing:
        found = next((entry for entry in opened.absent if fnmatchcase(name, entry.pattern)), None)
        if found is None:
            return None
        reasons[found] = reasons.get(found, 0) + 1
    lines = [f"{count} tensors `{entry.pattern}`: {entry.why}" for entry, count in reasons.items()]
    return CheckpointError(
        f"`{opened.title}` is not the whole model:",
        details=lines,
        hint="; ".join(dict.fromkeys(entry.hint for entry in reasons)) + "; `base:` takes a list, `--base` several",
    )
