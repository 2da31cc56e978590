"""Write trained weights as files that other tools load, and verify them by reading them back.

A family defines the files' format: its `TaskSpec.export_class` names an `Exporter`. Everything is written
under a temporary name and takes its own only once a fresh model, built from nothing but the files, holds the same
tensors and computes the same numbers.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ttstrain import registry
from ttstrain.checkpoint.parts import merge
from ttstrain.checkpoint.pointers import sync_folder
from ttstrain.checkpoint.upstream import open_checkpoint
from ttstrain.contract.checkpoint import OpenedCheckpoint
from ttstrain.contract.export import FOLDER, TRAINING, Exporter, Source, TrainerState, WrittenFile
from ttstrain.data import atomic
from ttstrain.errors import CheckpointError, RecipeError
from ttstrain.shell import quoted
from ttstrain.tensors.loading import load_weights
from ttstrain.tensors.tensorfile import StoredTensor

if TYPE_CHECKING:
    from ttstrain.contract.model import ModelConfig
    from ttstrain.contract.task import Task

FORWARD_TOLERANCE = 1e-5  # of the largest output; equal weights on one machine differ by less


@dataclass(frozen=True, slots=True)
class Exported:
    """A finished and checked export."""

    folder: Path
    files: tuple[str, ...]
    num_bytes: int
    num_tensors: int  # number of tensors compared, over all files
    difference: float | None  # largest of the forward pass, relative to its largest output; None: none was made
    use: tuple[str, ...]
    notes: tuple[str, ...]
    proven: tuple[str, ...] = ()


def load_exporter(task: str) -> Exporter:
    """Find a task's exporter. Raises RecipeError when its family has none."""
    spec = registry.find_task(task)
    exporter = spec.load_exporter()
    if exporter is None:
        raise RecipeError(f"`{task}` cannot be exported yet", hint="its checkpoints are safetensors under plain names")
    return exporter


def check_request(task: str, folder: Path, formats: Sequence[str], *, blend: float | None = None) -> tuple[str, ...]:
    """Return the formats to write. Raises RecipeError for one that is unknown, or a folder that is not empty.

    A training file holds the run's own weights and optimizer state, so a `blend` with the base has none.
    """
    known = load_exporter(task).formats
    if unknown := [name for name in formats if name not in known]:
        raise RecipeError(f"`{task}` has no format `{unknown[0]}`", hint=f"its formats: {', '.join(known)}")
    if blend not in (None, 1) and TRAINING in formats:
        raise RecipeError(
            f"`--format {TRAINING}` holds the run's own weights and optimizer state, which no blend has",
            hint=f"leave out `--blend` or `--format {TRAINING}`",
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise _not_empty(folder)
    return tuple(dict.fromkeys(formats)) or (next(iter(known)),)


def _not_empty(folder: Path) -> RecipeError:
    return RecipeError(f"`{folder}` exists and is not empty", hint="nothing is overwritten: name another folder")


def export(source: Source, folder: Path, *, formats: Sequence[str] = ()) -> Exported:
    """Write the files, read them back into a fresh model, compare, and only then give the folder its name.

    Raises CheckpointError when the files differ from the weights; the folder is not created then.
    """
    formats = check_request(source.task, folder, formats, blend=source.blend)
    exporter = load_exporter(source.task)
    folder = Path(os.path.abspath(folder))  # noqa: PTH100  a link keeps the name the user gave it
    temporary = atomic.temporary_beside(folder)
    atomic.remove_leftovers(folder.parent, start=folder.name[:40])
    try:
        temporary.mkdir(parents=True)
        written = exporter.write(source, temporary, formats)
        num_tensors, difference = _verify(source, exporter, temporary, written.files)
        _sync(temporary)
        with suppress(FileNotFoundError):
            folder.rmdir()
        temporary.rename(folder)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise _not_empty(folder) from error  # another export has written it meanwhile
        raise CheckpointError(f"`{folder}` could not be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return Exported(
        folder=folder,
        files=tuple(path.relative_to(folder).as_posix() for path in files),
        num_bytes=sum(path.stat().st_size for path in files),
        num_tensors=num_tensors,
        difference=difference,
        use=tuple(quoted(*(word.replace(FOLDER, str(folder)) for word in command)) for command in written.use),
        notes=tuple(written.notes),
        proven=tuple(written.proven),
    )


# ---------------------------------------------------------------- proof


def _verify(source: Source, exporter: Exporter, folder: Path, files: Sequence[WrittenFile]) -> tuple[int, float | None]:
    """Return how many tensors were compared and the largest difference of a forward pass."""
    num_tensors = 0
    differences: list[float] = []
    for model in _models(files):
        if model[0].holds == "adapters":  # the exporter itself checks adapters on top of their base
            opened = open_checkpoint(folder / model[0].name, task=source.task)
            num_tensors += _compare(model[0].name, opened.adapters, _trained_apart(source))
            continue
        training = source.training if model[0].holds == "training" else None
        expected = source.weights if training is None else training.raw
        parts = []
        for file in model:
            opened = open_checkpoint(folder / file.name, task=source.task)
            num_tensors += _compare_file(file, opened, {**expected, **source.others}, default=expected)
            if training is not None:
                num_tensors += _compare_training(file, opened, training)
            parts.append(opened)
        whole = merge(parts)
        config = exporter.config(folder)
        whole.check_model(config.model_dump(mode="json"))
        # Tensors that files of this format leave out do not affect the output; the trained values are used for them.
        stored = {key: whole.weights[key] for key in expected if key in whole.weights}
        rounded = _as_stored(expected, stored)
        fresh = _build_task(source.task, config)
        load_weights(fresh.exported(), {**rounded, **stored}, source=whole.title)
        outputs = exporter.probe(fresh)
        differences.append(_difference(whole.title, outputs, _probe(source, exporter, rounded)))
    return num_tensors, max(differences, default=None)


def _models(files: Sequence[WrittenFile]) -> list[list[WrittenFile]]:
    """Put together the files that make up one model."""
    models: dict[str, list[WrittenFile]] = {}
    for file in files:
        models.setdefault(file.model or file.name, []).append(file)
    return list(models.values())


def _compare_file(
    file: WrittenFile, opened: OpenedCheckpoint, held: Mapping[str, Tensor], *, default: Mapping[str, Tensor]
) -> int:
    expected = default if file.keys is None else {key: held[key] for key in file.keys}
    return _compare(file.name, opened.weights, expected)


def _compare_training(file: WrittenFile, opened: OpenedCheckpoint, training: TrainerState) -> int:
    count = 0
    if training.ema is not None and file.keys is None:
        count += _compare(f"{file.name}, EMA weights", opened.ema or {}, training.ema)
    wanted = {name: state for name, state in training.optimizer_state.items() if file.keys is None or name in file.keys}
    return count + _compare(f"{file.name}, optimizer state", _flat(opened.optimizer_state or {}), _flat(wanted))


def _trained_apart(source: Source) -> dict[str, Tensor]:
    return {} if source.adapters is None else {**source.adapters.tensors, **source.adapters.whole}


def _build_task(task: str, config: ModelConfig) -> Task:
    """Build a task that computes in float32, whatever its weights are trained in."""
    return registry.find_task(task).build(config).eval().float()


def _as_stored(expected: Mapping[str, Tensor], stored: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
    """Round weights to the types in which the files keep them; those that they leave out stay as they are."""
    return {key: tensor.to(stored[key].dtype) if key in stored else tensor for key, tensor in expected.items()}


def _probe(source: Source, exporter: Exporter, weights: Mapping[str, Tensor]) -> Tensor:
    """Run the same forward pass with the trained weights and the settings of the training."""
    task = _build_task(source.task, source.config)
    load_weights(task.exported(), weights, source=str(source.checkpoint))
    return exporter.probe(task)


def _compare(name: str, written: Mapping[str, StoredTensor], expected: Mapping[str, Tensor]) -> int:
    if odd := sorted(set(written) ^ set(expected)):
        raise _mismatch(name, f"{len(odd)} tensors are only in one of the two, such as `{odd[0]}`")
    for key, tensor in expected.items():
        found = written[key].read()
        if found.shape != tensor.shape or not torch.equal(found, tensor.to(device="cpu", dtype=found.dtype)):
            raise _mismatch(name, f"`{key}` differs")
    return len(expected)


def _flat(optimizer_state: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{name}.{key}": value for name, state in optimizer_state.items() for key, value in state.items()}


def _difference(name: str, found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape or not bool(torch.isfinite(found).all()):
        raise _mismatch(name, "the output of the forward pass is not finite, or has another shape")
    size = float(expected.abs().max())
    difference = float((found - expected).abs().max()) / max(size, 1e-12)
    if difference > FORWARD_TOLERANCE:
        raise _mismatch(name, f"the output of the forward pass differs by {difference:.2g} of its largest value")
    return difference


def _mismatch(name: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"the exported `{name}` differs from the checkpoint when it is read back: {what}",
        hint="the export was removed, the checkpoint is unchanged; check the disk, and report this if it has no errors",
    )


def _sync(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir():
            sync_folder(path)
            continue
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
