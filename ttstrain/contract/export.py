"""What an exporter gets and what it writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor

from ttstrain.contract.checkpoint import Absent
from ttstrain.contract.model import ModelConfig
from ttstrain.contract.task import Task
from ttstrain.recipe.schema import LoraConfig

FOLDER = "{folder}"


TRAINING = "training"  # in every family the format that another trainer resumes from


@dataclass(frozen=True, slots=True)
class TrainerState:
    """The state that another trainer needs to resume a run."""

    raw: Mapping[str, Tensor]
    ema: Mapping[str, Tensor] | None
    optimizer_state: Mapping[
        str, Mapping[str, Any]
    ]  # parameter -> AdamW's `step`, `exp_avg`, `exp_avg_sq`; {} before a step
    lr: float  # of the run's next update
    peak_lr: float
    weight_decay: float
    betas: tuple[float, float]
    eps: float
    notes: tuple[str, ...] = ()  # notes on state that is not exported
    refused: str = ""  # why a trainer with AdamW cannot resume; "" if it can


@dataclass(frozen=True, slots=True)
class Adapters:
    """Adapters, separate from their base. Tensors go by the plain keys of `Task.exported()`."""

    settings: LoraConfig
    targets: tuple[str, ...]  # names of the adapted layers
    tensors: Mapping[str, Tensor]
    whole: Mapping[str, Tensor]  # parameters of the base that were trained as they are


@dataclass(frozen=True, slots=True)
class Source:
    """The weights to export and their origin. Tensors go by the keys of `Task.exported()`."""

    checkpoint: Path
    name: str  # of the run
    task: str
    config: ModelConfig
    step: int
    weights: Mapping[str, Tensor]
    chosen: str  # which weights these are, "online" or "ema" or a blend of both
    reasons: tuple[str, ...]  # why these
    losses: Mapping[str, float] = field(default_factory=dict)  # held-out loss of each kind of weights
    base: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)  # packages that decide what the weights mean
    training: TrainerState | None = None
    adapters: Adapters | None = None  # adapters that are merged into `weights`; None for a run without adapters
    others: Mapping[str, Tensor] = field(default_factory=dict)  # trained beside them, such as a discriminator
    epoch: int | None = None  # number of times that the data were gone through, rounded up
    absent: tuple[Absent, ...] = ()  # what an upstream file lacks by design
    warnings: tuple[str, ...] = ()  # warnings about these weights
    blend: float | None = None  # share of the way from the base to the fine-tune; None: not asked for, the fine-tune


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file of weights in the exported folder."""

    name: str  # below the folder
    holds: Literal["weights", "training", "adapters"]
    keys: frozenset[str] | None = None  # names of the weights that it holds; None: all that are exported
    model: str = ""  # files of one such name make up a model; without a name each is one


@dataclass(frozen=True, slots=True)
class Written:
    """The files that an exporter wrote."""

    files: Sequence[WrittenFile]
    use: Sequence[Sequence[str]]  # commands that use the files, `FOLDER` where the folder's name goes
    notes: Sequence[str] = ()
    proven: Sequence[str] = ()  # results of checks with other tools, each in its own process


class Exporter(Protocol):
    """Writes one task's weights for the tools of its upstream."""

    formats: Mapping[str, str]  # name -> what it is for; the first is written when the user names none

    def write(self, source: Source, folder: Path, formats: Sequence[str]) -> Written:
        """Write weights and everything needed to use them into an empty folder."""
        ...

    def config(self, folder: Path) -> ModelConfig:
        """Read the model's settings back from the written files."""
        ...

    def probe(self, task: Task) -> Tensor:
        """Return the model's output for a fixed input; every setting that affects the model must affect it."""
        ...
