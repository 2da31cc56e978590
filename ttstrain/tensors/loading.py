"""Put weights into a module, completely or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from ttstrain.errors import CheckpointError, first_line
from ttstrain.places import refused_as
from ttstrain.state import Tree
from ttstrain.tensors.finite import named, non_finite
from ttstrain.tensors.sharded import load_state
from ttstrain.tensors.tensorfile import StoredTensor, read_tree

Tensors = Mapping[str, Tensor] | Mapping[str, StoredTensor] | Mapping[str, Tensor | StoredTensor]

Built = TypeVar("Built", bound=nn.Module)

_SHOWN = 3  # names of each kind in an error
_NO_NET = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, AssertionError)


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A tensor whose shape differs between the file and the model."""

    name: str
    file: tuple[int, ...]
    model: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name}: {_shape(self.file)} in the file, {_shape(self.model)} in the model"


@dataclass(frozen=True, slots=True)
class WrongKind:
    """A tensor of whole numbers in the file where the model has fractions: read as such they would be other weights."""

    name: str
    file: torch.dtype
    model: torch.dtype

    def __str__(self) -> str:
        kinds = (str(dtype).removeprefix("torch.") for dtype in (self.file, self.model))
        return f"{self.name}: {' in the file, '.join(kinds)} in the model"


@dataclass(frozen=True, slots=True)
class LoadReport:
    """Which tensors a module and a file have in common, by name, shape and kind of number."""

    source: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]  # in the model only
    unexpected: tuple[str, ...]  # in the file only
    mismatched: tuple[Mismatch, ...]
    wrong_kind: tuple[WrongKind, ...] = ()

    @property
    def perfect(self) -> bool:
        return not (self.missing or self.unexpected or self.mismatched or self.wrong_kind)

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """Return the report as lines; long lists are cut short."""
        lines = [f"{len(self.matched)} tensors match"]
        lines += _listed("missing in the file", self.missing)
        lines += _listed("unknown to the model", self.unexpected)
        lines += _listed("of another shape", self.mismatched)
        lines += _listed("of another kind of number", self.wrong_kind)
        return lines


def compare(module: nn.Module, tensors: Tensors, *, source: str) -> LoadReport:
    """Compare a file's tensors with a module's by name and shape, without touching the module."""
    wanted = module.state_dict()
    common = [name for name in wanted if name in tensors]
    return LoadReport(
        source=source,
        matched=tuple(name for name in common if wanted[name].shape == tensors[name].shape),
        missing=tuple(name for name in wanted if name not in tensors),
        unexpected=tuple(name for name in tensors if name not in wanted),
        mismatched=tuple(
            Mismatch(name, tuple(tensors[name].shape), tuple(wanted[name].shape))
            for name in common
            if wanted[name].shape != tensors[name].shape
        ),
        wrong_kind=tuple(
            WrongKind(name, tensors[name].dtype, wanted[name].dtype)
            for name in common
            # Exports that halve every tensor also halve counters: fractions for whole numbers are right.
            if wanted[name].is_floating_point() and not tensors[name].dtype.is_floating_point
        ),
    )


def build_to_fit(build: Callable[[], Built], tensors: Tensors, *, source: str, config: str) -> Built:
    """Build a net as a configuration describes it, if a file's tensors fit it.

    The net is first built without memory for its weights: a damaged number may describe terabytes. Raises
    CheckpointError where it cannot be built, or where names, shapes or kinds of number differ.
    """
    try:
        with torch.device("meta"):
            outline = build()
    except _NO_NET as error:
        reason = f"`{error.args[0]}` is missing" if isinstance(error, KeyError) and error.args else first_line(error)
        raise CheckpointError(f"`{config}` does not describe a net: {reason}", hint="download it again") from error
    report = compare(outline, tensors, source=source)
    if not report.perfect:
        raise CheckpointError(
            f"`{source}` does not fit the configuration beside it:",
            details=report.lines(),
            hint="weights and configuration come from the same place; download both again",
        )
    return build()


@refused_as(CheckpointError)
def load_weights(module: nn.Module, tensors: Tensors, *, source: str) -> LoadReport:
    """Load a file's tensors into a module, converting to the module's dtypes and devices.

    Tensors that are still in a file are read after all names and shapes were compared.

    Raises CheckpointError unless every tensor of either side has its counterpart and is finite; the module is untouched
    then.
    """
    report = compare(module, tensors, source=source)
    if not report.perfect:
        raise misfit(report)
    read = read_tree(tensors)
    check_finite(read, source=source)
    load_state(module, read)
    return report


def misfit(report: LoadReport) -> CheckpointError:
    """Make the error for a file that does not fit a model."""
    return CheckpointError(f"`{report.source}` does not fit the model:", details=report.lines(), hint=_hint(report))


def check_finite(tree: Tree, *, source: str) -> None:
    """Raise CheckpointError where tensors hold NaN or infinity, in a row that no text uses too: training spreads it."""
    _refuse(non_finite(tree), source=source)


@refused_as(CheckpointError)
def check_stored_finite(tensors: Tensors, *, source: str) -> None:
    """Raise as `check_finite` does for tensors that are still in a file; one at a time is in memory."""
    _refuse([name for name in tensors if non_finite(read_tree({name: tensors[name]}))], source=source)


def _refuse(bad: list[str], *, source: str) -> None:
    if bad:
        raise CheckpointError(
            f"`{source}` holds NaN or infinity in {len(bad)} tensors: {named(bad)}",
            hint="the file is damaged or its training diverged: use an earlier checkpoint, or another base",
        )


def _hint(report: LoadReport) -> str:
    vocabulary = [entry for entry in report.mismatched if _is_row_mismatch(entry)]
    if len(vocabulary) == len(report.mismatched) == 1 and not (report.missing or report.unexpected):
        entry = vocabulary[0]
        return (
            f"the vocabulary differs: the file has {entry.file[0]} rows in `{entry.name}`, the model {entry.model[0]}; "
            "use the vocabulary that belongs to the file"
        )
    return "`ttstrain inspect-ckpt` shows what the file holds; the `model:` section must describe the same architecture"


def _is_row_mismatch(entry: Mismatch) -> bool:
    return "embed" in entry.name and entry.file[1:] == entry.model[1:]


def _listed(what: str, entries: Sequence[object]) -> list[str]:
    if not entries:
        return []
    shown = [f"  {entry}" for entry in entries[:_SHOWN]]
    more = [f"  ... and {len(entries) - _SHOWN} more"] if len(entries) > _SHOWN else []
    return [f"{len(entries)} {what}:", *shown, *more]


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(str(size) for size in shape)})"
