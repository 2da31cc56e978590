"""Merge several files into one base: parts of a model, or one file over another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import torch

from ttstrain import registry
from ttstrain.checkpoint.reading import retried
from ttstrain.checkpoint.upstream import open_checkpoint, resolve_base
from ttstrain.contract.checkpoint import Absent, OpenedCheckpoint, differences
from ttstrain.contract.model import ResolvedRecipe
from ttstrain.contract.task import AddsTokens, Task
from ttstrain.errors import CheckpointError, RecipeError
from ttstrain.recipe.schema import base_files
from ttstrain.recipe.shipped import base_path
from ttstrain.tensors import hub
from ttstrain.tensors.loading import LoadReport, Tensors, check_stored_finite, compare, misfit
from ttstrain.tensors.tensorfile import StoredTensor


def open_base(files: Sequence[str], *, task: str) -> OpenedCheckpoint:
    """Open the files that a recipe's `base:` names, and what belongs to them; the later win, tensor by tensor."""
    parts: list[OpenedCheckpoint] = []
    for spec in files:
        opened = _open(spec, task=task)
        parts += [opened, *(open_checkpoint(path, task=task) for path in opened.partners)]
    return merge(parts)


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


def merge(parts: Sequence[OpenedCheckpoint]) -> OpenedCheckpoint:
    """Merge checkpoints of one family into one; a later one's tensors replace an earlier one's.

    Raises CheckpointError when they are of different models.
    """
    first, *others = parts
    if not others:
        return first
    config: Mapping[str, Any] = first.config
    weights: dict[str, StoredTensor] = dict(first.weights)
    notes = [f"{first.path.name}: {note}" for note in first.notes]
    for number, part in enumerate(others, start=1):
        _check_same_model(parts[:number], config, part)
        replaced = sum(key in weights for key in part.weights)
        kept = len(weights) - replaced
        if replaced:
            notes.append(f"{part.path.name} replaces {replaced} tensors of the files before it; {kept} are kept")
        notes += [f"{part.path.name}: {note}" for note in part.notes]
        weights |= part.weights
        config = _merged(config, part.config)
    moments = [part.optimizer_state for part in parts]
    return replace(
        first,
        kind="base",
        model=" + ".join(dict.fromkeys(part.model for part in parts)),
        version=", ".join(dict.fromkeys(part.version for part in parts)),
        config=config,
        unknown=tuple(dict.fromkeys(key for part in parts for key in part.unknown if key not in config)),
        weights=weights,
        ema=None,
        ema_step=None,
        adapters={},
        optimizer_state=None
        if None in moments
        else {key: own for some in moments if some for key, own in some.items()},
        groups=tuple(group for part in parts for group in part.groups),
        step=None,
        schedule=None,
        sources={key: source for part in parts for key, source in part.sources.items()},
        buffers=frozenset().union(*(part.buffers for part in parts)),
        globals=tuple(dict.fromkeys(name for part in parts for name in part.globals)),
        front_end={key: value for part in parts for key, value in part.front_end.items()},
        fits=_common(parts),
        absent=tuple(entry for part in parts for entry in part.absent if not _has(weights, entry)),
        beside=tuple(part.path for part in others),
        notes=tuple(notes),
        guesses=tuple(f"{part.path.name}: {guess}" for part in parts for guess in part.guesses),
    )


def _check_same_model(before: Sequence[OpenedCheckpoint], config: Mapping[str, Any], part: OpenedCheckpoint) -> None:
    names = " + ".join(path.path.name for path in before)
    if part.family != before[0].family:
        raise CheckpointError(f"`{part.path}` is of family `{part.family}`, `{names}` of `{before[0].family}`")
    for other in before:
        if part.fits and other.fits and not part.fits & other.fits:
            raise CheckpointError(
                f"`{part.path}` is of version {_versions(part)}, but `{other.path}` is of {_versions(other)}",
                hint="the files of one model must be of one version; `ttstrain inspect-ckpt` says what a file is",
            )
    if differing := [f"{key}: {new!r}, and {old!r} before it" for key, old, new in differences(config, part.config)]:
        raise CheckpointError(
            f"`{part.path}` is of another model than `{names}`:",
            details=differing,
            hint="the files of one `base:` must be parts of one model",
        )


def _versions(part: OpenedCheckpoint) -> str:
    return " or ".join(sorted(part.fits))


def _common(parts: Sequence[OpenedCheckpoint]) -> frozenset[str]:
    """Return the versions that all parts may be of."""
    told = [part.fits for part in parts if part.fits]
    return frozenset.intersection(*told) if told else frozenset()


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Join two sections that do not contradict each other."""
    joined = dict(one)
    for key, value in other.items():
        both = isinstance(value, Mapping) and isinstance(joined.get(key), Mapping)
        joined[key] = _merged(joined[key], value) if both else value
    return joined


def _has(weights: Mapping[str, Any], absent: Absent) -> bool:
    return any(fnmatchcase(key, absent.pattern) for key in weights)


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
