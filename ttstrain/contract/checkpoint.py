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
    new_rows: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # parameter -> rows the base knew nothing of


class SchedulePosition(BaseModel):
    """Where the schedule stands."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    position: int  # updates done
    total: int | None
    ended: bool
    lr_next: float | None  # LR of the next update; the highest where groups differ
    stages: tuple[tuple[str, int], ...] = ()  # those that are over, with the step after which each ended


CheckpointKind = Literal["base", "training", "export", "adapter", "unknown"]


@dataclass(frozen=True, slots=True)
class OptimizerGroup:
    """A parameter group as its optimizer kept it."""

    name: str
    lr: float  # of its next update
    weight_decay: float
    parameters: int  # number of scalars


@dataclass(frozen=True, slots=True)
class Absent:
    """Weights that a file of this kind lacks by design."""

    pattern: str  # of their names
    why: str
    hint: str  # what to do when they are needed
    remark: str = ""  # what a person should know who looks at the file
    to_train_only: bool = False  # nobody misses them who speaks with the net


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
    unknown: tuple[str, ...]  # keys of that section which the file cannot tell, though they change what weights mean
    weights: Mapping[str, StoredTensor]  # state-dict key -> tensor; the trained ones, else the averaged ones
    ema: Mapping[str, StoredTensor] | None = None  # the average, under the same keys
    ema_step: int | None = None
    adapters: Mapping[str, StoredTensor] = field(default_factory=dict)  # what `weights` and `ema` already include
    optimizer_state: Mapping[str, Mapping[str, Any]] | None = (
        None  # parameter -> its optimizer state, as torch's AdamW keeps it
    )
    groups: tuple[OptimizerGroup, ...] = ()
    schedule: SchedulePosition | None = None
    step: int | None = None
    sources: Mapping[str, str] = field(default_factory=dict)  # key of `config` -> who says it, if not the tensors
    buffers: frozenset[str] = frozenset()  # keys of `weights` that are not parameters
    vocab: Path | None = None  # text table that lies beside the file
    section: Mapping[str, Any] = field(default_factory=dict)  # our own: the complete `model:` section it was trained by
    globals: tuple[str, ...] = ()
    front_end: Mapping[str, str] = field(default_factory=dict)  # our own: `FrontEnd.versions` it was trained with
    absent: tuple[Absent, ...] = ()  # patterns that may match nothing of `weights`
    partners: tuple[Path, ...] = ()  # files that hold the rest of the same training
    fits: frozenset[str] = frozenset()  # versions that its tensors may be of; empty where they tell nothing
    refusal: str = ""  # why it cannot be trained from, after its name; it can still be looked at
    beside: tuple[Path, ...] = ()  # further files that these weights were merged from
    notes: tuple[str, ...] = field(default_factory=tuple)
    guesses: tuple[
        str, ...
    ] = ()  # notes on `unknown` for who looks at the file: a run takes those keys from its recipe

    @property
    def title(self) -> str:
        """Name the file, or the files, that the weights come from."""
        return " + ".join(path.name for path in (self.path, *self.beside))

    @property
    def source(self) -> str:
        """Name it in an error: by its path, or where it is several files by their names."""
        return self.title if self.beside else str(self.path)

    @property
    def ema_only(self) -> bool:
        """Whether `weights` are EMA weights because the file has no raw ones."""
        return self.kind == "base" and self.ema is not None

    def check_model(self, model: Mapping[str, Any]) -> None:
        """Compare what the file says of its architecture with a `model:` section, all defaults filled in.

        Raises CheckpointError that lists each difference: some would load without complaint and speak gibberish.
        """
        differing = [
            f"{key}: {told!r} {self._source(key)}, {wanted!r} in the recipe"
            for key, told, wanted in differences(self.config, model)
        ]
        if differing:
            raise CheckpointError(
                f"`{self.path}` is {self.model}, another model than the recipe's:",
                details=differing,
                hint="extend the matching `models/` config, or choose another base",
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
    """How people call a model, and which of its settings decide what its weights mean."""

    model: str
    version: str
    config: Mapping[str, Any]
    buffers: frozenset[str] = frozenset()  # state-dict keys that are not parameters


class UpstreamFormat(Protocol):
    """Knows the files of one upstream project."""

    name: str

    def sniff(self, contents: Contents) -> bool:
        """Tell by its content whether a file is of this format."""
        ...

    def read(self, contents: Contents) -> OpenedCheckpoint:
        """Translate the file's names into the task's. Raises CheckpointError where it is incomplete."""
        ...

    def label(self, model: Mapping[str, Any]) -> Label:
        """Name the model that a complete `model:` section describes."""
        ...


@dataclass(frozen=True, slots=True)
class Interpretation:
    """One way to understand a checkpoint's tensors: settings that fit their shapes, and change what they mean."""

    name: str
    model: Mapping[str, Any]  # a `model:` section, for the task's config
    settings: Mapping[str, Any]  # its keys in which interpretations differ
    stated: bool  # whether the checkpoint, or what lies beside it, says so itself


@dataclass(frozen=True, slots=True)
class UnknownFile:
    """A file that is no checkpoint to train from, recognised by its keys."""

    what: str  # goes on a sentence that begins with the file's name
    hint: str
