"""The weights that a run starts from: another trainer's, or those of another run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ttstrain import registry
from ttstrain.checkpoint import base_record
from ttstrain.checkpoint.merging import check_fits, no_new_embeddings, open_for
from ttstrain.checkpoint.meta import BaseMeta, compare_front_ends
from ttstrain.checkpoint.over_base import places_of
from ttstrain.contract.checkpoint import AdaptedWeights, OpenedCheckpoint
from ttstrain.errors import CheckpointError
from ttstrain.modules import lora
from ttstrain.plan.plan import Plan
from ttstrain.plan.resolve import DEFAULT
from ttstrain.recipe.compose import COMMAND_LINE, RECIPE
from ttstrain.recipe.schema import base_files
from ttstrain.tensors.loading import LoadReport, Tensors, load_weights
from ttstrain.train import checkpointing
from ttstrain.train.run import Run


@dataclass(frozen=True, slots=True)
class LoadedBase:
    """A base whose weights a run has loaded."""

    opened: OpenedCheckpoint
    notes: tuple[str, ...]  # for the user
    taken: frozenset[str]  # weights of the run that lie in the base's files as they are


def load_base(run: Run, base: OpenedCheckpoint) -> LoadedBase:
    """Load the base weights into the run.

    Opens the base again where its file is gone: its run may have replaced it while the data were prepared.
    """
    try:
        return _load_opened(run, base)
    except (CheckpointError, FileNotFoundError) as error:
        if not isinstance(error.__cause__ if isinstance(error, CheckpointError) else error, FileNotFoundError):
            raise
        return _load_opened(run, open_for(run.plan.recipe))


def record_base(run: Run, base: LoadedBase) -> list[str]:
    """Record in the run's folder which base it starts from, by a checksum; return notes. All ranks call it.

    From now on, checkpoints of adapters leave out what the base holds. Opens the base again where it is gone; then its
    files may be others, and checkpoints stay whole.
    """
    total: str | None = None
    files = base_files(run.plan.recipe.base)
    if run.ranks.main:
        try:
            total = base_record.write(run.folder, files, base.opened.weights).sha256
        except (CheckpointError, FileNotFoundError):
            base_record.write(run.folder, files, open_for(run.plan.recipe).weights)
    if run.plan.recipe.lora is None:
        return []
    total = run.ranks.broadcast(total)
    if total is None and run.plan.recipe.lora.base == "nf4":
        raise CheckpointError(
            f"the base `{base.opened.source}` was replaced while the run started, and `lora.base=nf4` keeps none of "
            "its weights as they are",
            hint="start the run again",
        )
    if total is None:
        return [
            "WARNING: the base was replaced while the run started: checkpoints hold the whole net, not adapters only"
        ]
    own = run.task.exported().state_dict()
    held = BaseMeta(
        files=files,
        directory=str(Path.cwd()),
        places=places_of(base.opened),
        from_run=(),
        sha256=total,
        tensors={name: str(own[name].dtype).removeprefix("torch.") for name in own if name in base.taken},
    )
    checkpointing.leave_to_base(run, held)
    left_out = 0 if run.base is None else len(run.base.tensors)
    return [f"checkpoints leave out {left_out} tensors that stay as they are in the base: keep `{base.opened.source}`"]


def _load_opened(run: Run, base: OpenedCheckpoint) -> LoadedBase:
    """Load the weights only, never a base's optimizer state. The EMA weights start as a copy of them."""
    fitted = run.task.fitted(base)
    wanted = lora.with_adapters(run.task, fitted.weights)
    report = load_strictly(run, base, wanted)
    lora.set_magnitudes(run.task)
    if run.ema is not None:
        run.ema.reset(run.task.exported())
    lines = [
        f"base {base.title}: {base.model}, {len(report.matched)} tensors",
        *notes_on(run.plan, base),
        *fitted.notes,
    ]
    lines += _choose_new_embeddings(run, fitted)
    lines += [
        f"WARNING: the {len(rows)} new embedding rows of `{name}` are frozen, so they are not trained"
        for name, rows in fitted.new_embeddings.items()
        if name in run.optimizers.table.frozen
    ]
    lines += compare_front_ends(base.front_end, front_end_of(run))
    if base.kind == "training":
        lines.append(f"it is a training checkpoint of step {base.step}; `ttstrain resume` would continue that training")
    taken = {name for name, own in wanted.items() if own is base.weights.get(lora.plain_name(name))}
    return LoadedBase(base, tuple(lines), frozenset(taken))


def load_strictly(run: Run, opened: OpenedCheckpoint, weights: Tensors) -> LoadReport:
    """Load weights strictly. Raises CheckpointError; where whole parts are missing, names the files with them."""
    check_fits(run.task, weights, opened)
    return load_weights(run.task, weights, source=opened.source)


def notes_on(plan: Plan, opened: OpenedCheckpoint) -> list[str]:
    """Return notes on a checkpoint file: its oddities, and the model settings that it does not record."""
    return [*opened.notes, *([_taken_on_trust(plan, opened)] if opened.unknown else [])]


def _taken_on_trust(plan: Plan, base: OpenedCheckpoint) -> str:
    """Name the model settings that a file does not record; a WARNING unless the user has set all of them."""
    section = plan.recipe.section()
    settings = ", ".join(f"model.{key}={json.dumps(section[key])}" for key in base.unknown)
    origins = {key: plan.origins.get(f"model.{key}", DEFAULT) for key in base.unknown}
    if set(origins.values()) <= {RECIPE, COMMAND_LINE}:
        return f"`{base.path.name}` does not tell {', '.join(base.unknown)}: {settings}, as you say"
    where = ", ".join(dict.fromkeys(origins.values()))
    taken = (
        f"WARNING: `{base.path.name}` does not tell {', '.join(base.unknown)}. This run takes {settings} (from {where})"
    )
    if not registry.find_task(plan.recipe.task).interpretations:
        return f"{taken}: say it in the recipe where it is another"
    return (
        f"{taken}. A wrong value loads and trains without an error, and generates noise. Check with "
        "`ttstrain inspect-ckpt FILE --probe DATA`, then say it in the recipe"
    )


def _choose_new_embeddings(run: Run, fitted: AdaptedWeights) -> list[str]:
    new_embeddings = run.optimizers.new_embeddings
    if new_embeddings is None:
        return []
    new_embeddings.choose(fitted.new_embeddings)
    if not new_embeddings.count:
        raise no_new_embeddings()
    rows = f"the {new_embeddings.count} new embedding rows"
    return [f"steps 0 to {new_embeddings.steps} train only {rows}; everything else is frozen"]


def front_end_of(run: Run) -> Mapping[str, str]:
    """Return the versions of the run's text front end; empty where its task has none."""
    texts = run.plan.facts.texts
    return {} if texts is None else texts.front_end
