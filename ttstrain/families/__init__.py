"""Families of models, found by folder name: there is no list to edit.

A family is a sub-package that defines `FAMILY`. Importing it must not import torch; its classes are named by
`module:Class` references and loaded when a run needs them.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from ttstrain.data.review import Review
from ttstrain.errors import RecipeError
from ttstrain.recipe.schema import Section

if TYPE_CHECKING:
    from ttstrain.checkpoint.upstream import OpenedCheckpoint, UpstreamFormat
    from ttstrain.data.manifest import Clip
    from ttstrain.data.texts import FrontEnd
    from ttstrain.export.write import Exporter
    from ttstrain.plan.parameters import ParameterCounts
    from ttstrain.plan.project import ProjectFormat
    from ttstrain.recipe.schema import Recipe
    from ttstrain.task import Task, TaskData


def _load_reference(reference: str) -> Any:
    module, _, name = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        family = module.removeprefix(f"{__name__}.").split(".")[0]
        if error.name is None or error.name.startswith("ttstrain"):
            raise
        raise RecipeError(
            f"`{family}` needs the package `{error.name}`", hint=f"pip install 'ttstrain[{family}]'"
        ) from error


@dataclass(frozen=True, slots=True)
class MemoryScheme:
    """One way to train a model and what it needs on the device."""

    name: str
    keys: str  # of the recipe, that choose it
    state: int  # bytes of weights, their copies, gradients and moments
    activations: int  # bytes of one micro-batch, about
    chosen: bool  # the recipe's own


class ModelConfig(Section):
    """Settings of a model, and what a plan must know about it. Its module imports no torch."""

    packed: ClassVar[bool] = False
    """As `TaskData.packed`."""
    features_on_host: ClassVar[bool] = False
    """Whether examples are laid out on the host: features cannot be kept on the device."""

    def num_parameters(self) -> int:
        """Return the number of trainable parameters."""
        return sum(math.prod(shape) for shape in self.parameter_shapes().values())

    @abstractmethod
    def parameter_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Map the name of every trainable parameter of the task to its shape."""

    def optimizers(self) -> Mapping[str, Sequence[str]]:
        """Map each optimizer of the task, in its order, to patterns over the names of the parameters that it trains."""
        return {"model": ("*",)}

    def weight_bytes(self) -> int:
        """Return the bytes of one trained weight, and of its gradient."""
        return 4

    def activation_bytes(self, recipe: Recipe) -> int | None:
        """Return the bytes, about, that a micro-batch leaves for its backward pass; None: nobody counted."""
        return None

    def memory_schemes(self, recipe: Recipe, parameters: ParameterCounts) -> Sequence[MemoryScheme]:
        """Return the ways to train this model from the largest down, for a plan's table; none: no table."""
        return ()

    def lora_targets(self) -> Sequence[str]:
        """Return patterns of the linear layers that LoRA adapts when the recipe names none."""
        return ()

    def kept_files(self) -> Mapping[str, str]:
        """Map keys that name a file of the user's to its text; every checkpoint keeps a copy, `<key>.txt`.

        Raises RecipeError when a file cannot be used.
        """
        return {}

    def check_run(self, recipe: Recipe, *, steps: int) -> None:
        """Refuse settings that cannot go with the rest of the recipe, or with a run of so many steps.

        Raises RecipeError.
        """
        return

    @abstractmethod
    def length(self, clip: Clip) -> int:
        """Return the clip's length in frames, known from its duration without decoding; as `TaskData.length`."""

    def companion_ratio(self, progress: float) -> float:
        """Return how many micro-batches without recordings go with one of clips, at a share of the run.

        As `Companions.ratio`; 0 where the task has none.
        """
        return 0.0

    def review(self, clips: Sequence[Clip]) -> Review:
        """Return what the family has to say about audited clips; those it leaves out are not computed."""
        return Review()

    def front_end(self) -> FrontEnd | None:
        """Return what turns texts into tokens; None where the family has nothing to tell of it."""
        return None


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to understand a checkpoint's tensors: settings that fit their shapes, and change what they mean."""

    name: str
    model: Mapping[str, Any]  # a `model:` section, for the task's config
    settings: Mapping[str, Any]  # its keys in which readings differ
    stated: bool  # whether the checkpoint, or what lies beside it, says so itself


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One thing that can be trained, and where its parts live."""

    name: str  # what a recipe's `task:` says, "flow" or "gpt_sovits/vae"
    config: type[ModelConfig]  # validates the recipe's `model:` section
    task_class: str  # "module:Class", built as Class(config)
    data_class: str  # "module:Class", built as Class(config)
    readings: str = ""  # "module:function" (opened, vocab=...) -> Readings; none: shapes tell all
    export_class: str = ""  # "module:Class" of its Exporter, built as Class(); none: cannot be exported

    def load_task(self) -> type[Task]:
        task: type[Task] = _load_reference(self.task_class)
        return task

    def load_data(self) -> type[TaskData]:
        data: type[TaskData] = _load_reference(self.data_class)
        return data

    def list_readings(self, opened: OpenedCheckpoint, *, vocab: str | None) -> Sequence[Reading]:
        """List the ways to understand a checkpoint; none where the task offers no choice."""
        if not self.readings:
            return []
        found: Sequence[Reading] = _load_reference(self.readings)(opened, vocab=vocab)
        return found

    def load_exporter(self) -> Exporter | None:
        exporter: Exporter | None = _load_reference(self.export_class)() if self.export_class else None
        return exporter


@dataclass(frozen=True, slots=True)
class Stranger:
    """A file that is no checkpoint to train from, recognised by its keys."""

    what: str  # goes on a sentence that begins with the file's name
    hint: str


@dataclass(frozen=True, slots=True)
class Family:
    """Everything the core knows about a family."""

    name: str
    tasks: Sequence[TaskSpec]
    formats: Sequence[str] = field(default_factory=tuple)  # "module:Class" of its UpstreamFormats
    strangers: str = ""  # "module:function" (keys) -> Stranger | None, for files that none of its formats takes
    project: str = ""  # "module:Class" of its ProjectFormat, whose module imports no torch

    def load_formats(self) -> Sequence[UpstreamFormat]:
        return [_load_reference(reference)() for reference in self.formats]

    def load_project(self) -> ProjectFormat | None:
        project: ProjectFormat | None = _load_reference(self.project)() if self.project else None
        return project


def recognise(keys: Sequence[str]) -> Stranger | None:
    """Ask every family what a file with these keys is, when none of their formats takes it."""
    for name in names():
        family = load(name)
        stranger: Stranger | None = _load_reference(family.strangers)(keys) if family.strangers else None
        if stranger is not None:
            return stranger
    return None


def names() -> list[str]:
    """List the families in this installation."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg)


def load(name: str) -> Family:
    """Import one family by its folder's name."""
    if name not in names():
        raise RecipeError(f"unknown family `{name}`", hint=f"known families: {', '.join(names())}")
    family: Family = importlib.import_module(f"{__name__}.{name}").FAMILY
    return family


def find_task(name: str) -> TaskSpec:
    """Find the task that a recipe's `task:` names."""
    known = tasks()
    if name not in known:
        raise RecipeError(f"unknown task `{name}`", hint=f"known tasks: {', '.join(known)}")
    return known[name]


def tasks() -> Mapping[str, TaskSpec]:
    """Map every task's name to its spec, over all families."""
    return {spec.name: spec for family in names() for spec in load(family).tasks}
