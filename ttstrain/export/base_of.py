"""The weights that a run started from, found again and compared with what the run recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ttstrain.checkpoint import base_record, run_folder
from ttstrain.checkpoint.merging import open_base
from ttstrain.contract.checkpoint import OpenedCheckpoint
from ttstrain.contract.model import ResolvedRecipe
from ttstrain.contract.task import Task
from ttstrain.errors import CheckpointError, RecipeError, UserError
from ttstrain.recipe.schema import base_files, base_title
from ttstrain.shell import quoted
from ttstrain.tensors.tensorfile import read_tree


@dataclass(frozen=True, slots=True)
class BaseWeights:
    """A base's tensors under a task's names and in its shapes."""

    weights: Mapping[str, Tensor]
    new_rows: Mapping[str, Sequence[int]] = field(default_factory=dict)  # table -> rows of tokens that the base lacks
    warnings: tuple[str, ...] = ()


def read_base(
    task: Task,
    name: str,
    *,
    run: Path | None,
    recipe: ResolvedRecipe | None,
    named: Sequence[str] = (),
    found: OpenedCheckpoint | None = None,
) -> BaseWeights:
    """Read the base of a run whose task is called `name`, or the files `named` instead.

    `found` is the run's base where it is open and compared with the record already. Raises RecipeError for a run from
    scratch, CheckpointError where the base is gone or is not what the run recorded.
    """
    warnings: tuple[str, ...] = ()
    if found is not None and not named:
        opened = found
    else:
        opened, warnings = _open(name, run=run, recipe=recipe, named=named)
    fitted = task.fitted(opened)
    wanted = task.exported().state_dict()
    weights = read_tree({key: tensor for key, tensor in fitted.weights.items() if key in wanted})
    return BaseWeights(weights, fitted.new_embeddings, warnings)


def _open(
    name: str, *, run: Path | None, recipe: ResolvedRecipe | None, named: Sequence[str]
) -> tuple[OpenedCheckpoint, tuple[str, ...]]:
    """Open a base and compare it with the run's record; return it with warnings."""
    files = tuple(named) or _files(run, recipe)
    try:
        opened = open_base(files, task=name)
    except UserError as error:
        if named or run is None:
            raise
        raise CheckpointError(
            f"the base of `{run.name}` cannot be opened: {error.message}",
            hint="if it lies elsewhere now, give it with `--base FILE`",
        ) from error
    return opened, _check(opened, run, given=bool(named))


def _files(run: Path | None, recipe: ResolvedRecipe | None) -> tuple[str, ...]:
    """Return the files of a run's base, so that they are found from any directory."""
    if run is None or recipe is None:
        raise RecipeError(
            "`--blend` needs the base, which only a run's folder names", hint="give it with `--base FILE`"
        )
    if recipe.base is None:
        raise RecipeError(
            f"`{run.name}` was trained from scratch: it has no base to blend with", hint="leave `--blend` out"
        )
    if (elsewhere := _began_from(run)) is not None:
        raise CheckpointError(
            f"`{run.name}` did not start from its recipe's base, `{base_title(recipe.base)}`, but from `{elsewhere}`",
            hint=f"blend with that one: `--base {quoted(elsewhere)}`",
        )
    started = run_folder.directory(run)
    return tuple(base_record.anchored(spec, started) for spec in base_files(recipe.base))


def _began_from(run: Path) -> str | None:
    """Return the checkpoint that a run went on from at its first start; None for one that started from its base."""
    if (run / base_record.FILE_NAME).is_file():
        return None
    first = run / run_folder.SESSIONS / "0001"
    written = run_folder.read_environment(first if first.is_dir() else run).get("goes_on_from")
    return None if written is None else str(written)


def _check(opened: OpenedCheckpoint, run: Path | None, *, given: bool) -> tuple[str, ...]:
    """Compare a base with a run's record; return a warning where there is none. Raises CheckpointError."""
    record = None if run is None else base_record.read(run)
    if record is None:
        return (
            f"WARNING: no checksum of the base was recorded: `{opened.title}` is taken for what the run started from",
        )
    if base_record.checksum(opened.weights) == record.sha256:
        return ()
    assert run is not None
    hint = "give the weights that the run started from" if given else "it has changed since; give it with `--base FILE`"
    raise CheckpointError(
        f"`{opened.source}` is not the base that `{run.name}` started from: its tensors have another checksum",
        hint=hint,
    )
