"""Checkpoints of other trainers under a task's own names, and the formats that read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict

from ttstrain.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

    from ttstrain.tensors.contents import Contents
    from ttstrain.tensors.tensorfile import StoredTensor


@dataclass(frozen=True, slots=True)
class AdaptedWeights:
    """A base's tensors under a task's names and in its shapes."""

    weights: Mapping[str, Tensor | StoredTensor]
    notes: tuple[str, ...] = ()
    new_embeddings: Mapping[str, tuple[int, ...]] = field(
        default_factory=dict
    )  # embedding table -> rows of tokens that the base does not have


class SchedulePosition(BaseModel):
    """Position in the LR schedule."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    position: int  # updates done
    total: int | None
    ended: bool
    lr_next: float | None  # LR of the next update; the highest of all groups
    stages: tuple[tuple[str, int], ...] = ()  # those that are over, with the step after which each ended


CheckpointKind = Literal["base", "training", "export", "adapter", "unknown"]


@dataclass(frozen=True, slots=True)
class OptimizerGroup:
    """A parameter group as its optimizer kept it."""

    name: str
    lr: float  # LR of its next update
    weight_decay: float
    parameters: int  # number of scalars


@dataclass(frozen=True, slots=True)
class Absent:
    """Weights that a file of this kind lacks by design."""

    pattern: str  # of their names
    why: str
    hint: str  # what to do when they are needed
    remark: str = ""  # note for people who inspect the file
    to_train_only: bool = False  # not needed for inference


@dataclass(frozen=True, slots=True)
class OpenedCheckpoint:
    """A checkpoint under the task's own names.

    Tensors are still in their file: `load_weights` and `tensorfile.read_tree` fetch them.
    """

    path: Path
    family: str
    task: str
    kind: CheckpointKind
    model: str  # a published model's name, or a description
    version: str
    config: Mapping[str, Any]  # what is known of the task's `model:` section
    unknown: tuple[str, ...]  # keys of that section that the file does not determine, though they change the model
    weights: Mapping[str, StoredTensor]  # state-dict key -> tensor; raw weights, else EMA weights
    ema: Mapping[str, StoredTensor] | None = None  # EMA weights, under the same keys
    ema_step: int | None = None
    adapters: Mapping[str, StoredTensor] = field(default_factory=dict)  # already merged into `weights` and `ema`
    optimizer_state: Mapping[str, Mapping[str, Any]] | None = (
        None  # parameter -> its optimizer state, as torch's AdamW keeps it
    )
    groups: tuple[OptimizerGroup, ...] = ()
    schedule: SchedulePosition | None = None
    step: int | None = None
    sources: Mapping[str, str] = field(
        default_factory=dict
    )  # key of `config` -> source of its value, if not the tensors
    buffers: frozenset[str] = frozenset()  # keys of `weights` that are not parameters
    vocab: Path | None = None  # vocab file beside it
    section: Mapping[str, Any] = field(default_factory=dict)  # our own: the complete `model:` section it was trained by
    globals: tuple[str, ...] = ()
    front_end: Mapping[str, str] = field(default_factory=dict)  # our own: `FrontEnd.versions` it was trained with
    absent: tuple[Absent, ...] = ()  # patterns that may match nothing of `weights`
    partners: tuple[Path, ...] = ()  # files that hold the rest of the same training
    fits: frozenset[str] = frozenset()  # versions that fit its tensors; empty if unknown
    refusal: str = ""  # why it cannot be a base, continuing a sentence after its name; it can still be inspected
    beside: tuple[Path, ...] = ()  # further files that these weights were merged from
    notes: tuple[str, ...] = field(default_factory=tuple)
    guesses: tuple[
        str, ...
    ] = ()  # notes on `unknown` for people who inspect the file: a run takes those keys from its recipe

    @property
    def title(self) -> str:
        """Name the file, or the files, that the weights come from."""
        return " + ".join(path.name for path in (self.path, *self.beside))

    @property
    def source(self) -> str:
        """Name it in an error: its path, or the names if it is several files."""
        return self.title if self.beside else str(self.path)

    @property
    def ema_only(self) -> bool:
        """Whether `weights` are EMA weights because the file has no raw ones."""
        return self.kind == "base" and self.ema is not None

    def check_model(self, model: Mapping[str, Any]) -> None:
        """Compare what the file says of its architecture with a `model:` section, all defaults filled in.

        Raises CheckpointError that lists each difference: some would load without an error and generate gibberish.
        """
        differing = [
            f"{key}: {told!r} {self._source(key)}, {wanted!r} in the recipe"
            for key, told, wanted in differences(self.config, model)
        ]
        if differing:
            raise CheckpointError(
                f"`{self.path}` ({self.model}) is not the model of the recipe:",
                details=differing,
                hint="use the matching `models/` config in `extends`, or another base",
            )

    def _source(self, key: str) -> str:
        return f"by {self.sources[key]}" if key in self.sources else "in the file"


def differences(
    told: Mapping[str, Any], wanted: Mapping[str, Any], *, below: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted key, value told, value wanted) of settings that both have and that differ.

    Sections are compared key by key; where only one of the two is a section, it stands for something else there.
    """
    for key, value in told.items():
        if key not in wanted:
            continue
        other = wanted[key]
        if isinstance(value, Mapping):
            if isinstance(other, Mapping):
                yield from differences(value, other, below=f"{below}{key}.")
        elif value != other:
            yield f"{below}{key}", value, other


@dataclass(frozen=True, slots=True)
class Label:
    """A model's name, and the settings that its weights depend on."""

    model: str
    version: str
    config: Mapping[str, Any]
    buffers: frozenset[str] = frozenset()  # state-dict keys that are not parameters


class UpstreamFormat(Protocol):
    """Knows the files of one upstream project."""

    name: str

    def sniff(self, contents: Contents) -> bool:
        """Tell from its content whether a file is of this format."""
        ...

    def read(self, contents: Contents) -> OpenedCheckpoint:
        """Translate the file's names into the task's. Raises CheckpointError where it is incomplete."""
        ...

    def label(self, model: Mapping[str, Any]) -> Label:
        """Name the model that a complete `model:` section describes."""
        ...


@dataclass(frozen=True, slots=True)
class Interpretation:
    """One interpretation of a checkpoint's tensors: settings that fit their shapes, but change the model."""

    name: str
    model: Mapping[str, Any]  # a `model:` section, for the task's config
    settings: Mapping[str, Any]  # its keys in which interpretations differ
    stated: bool  # whether the checkpoint, or a file beside it, states these settings


@dataclass(frozen=True, slots=True)
class UnknownFile:
    """A file that cannot be a base, identified by its keys."""

    what: str  # continues a sentence that begins with the file's name
    hint: str
