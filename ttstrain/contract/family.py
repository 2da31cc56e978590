"""A family and the tasks it offers. Its classes are named by references, which are loaded when a run needs them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ttstrain.contract.model import ModelConfig, Planner
from ttstrain.errors import RecipeError

if TYPE_CHECKING:
    from ttstrain.contract.checkpoint import Interpretation, OpenedCheckpoint, UpstreamFormat
    from ttstrain.contract.data import Batch, Clip, TaskData
    from ttstrain.contract.export import Exporter
    from ttstrain.contract.project import ProjectFormat
    from ttstrain.contract.proof import Proof
    from ttstrain.contract.table import LineFormat, TableFormat
    from ttstrain.contract.task import Task


FOLDER = "ttstrain.families"  # the package whose sub-packages are families


def load_reference(reference: str) -> Any:
    """Import what a `module:name` reference names. Raises RecipeError where a package of the family is missing."""
    module, _, name = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        family = module.removeprefix(f"{FOLDER}.").split(".")[0]
        if error.name is None or error.name.startswith("ttstrain"):
            raise
        raise RecipeError(
            f"`{family}` needs the package `{error.name}`", hint=f"pip install 'ttstrain[{family}]'"
        ) from error


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """A task that can be trained, with references to its classes.

    Parts are named "module:Class" and imported when they are needed: those of torch are not for a plan.
    """

    name: str  # what a recipe's `task:` says, "flow" or "gpt_sovits/vae"
    config: type[ModelConfig]  # validates the recipe's `model:` section
    planner_class: str  # a `Planner`; its module imports no torch
    task_class: str  # a `Task`, built as Class(config)
    data_class: str  # a `TaskData`, built as Class(config)
    unit: str = "frames"  # what the lengths of its clips are counted in, for people
    interpretations: str = (
        ""  # "module:function" (opened, vocab=...) -> Interpretations; "" if shapes determine the model
    )
    export_class: str = ""  # an `Exporter`, built as Class(); "" if it cannot be exported
    blank_batch: str = ""  # "module:function" (config, clips) -> Batch of no content; "" if it cannot be rehearsed
    proof_class: str = ""  # a `Proof`, built as Class(task); "" if `prove` makes only the checks that fit every task

    def read_model(self, section: Mapping[str, Any]) -> ModelConfig:
        """Check a `model:` section, and fill in its defaults. Raises pydantic's ValidationError."""
        return self.config.model_validate(section)

    def planner(self, config: ModelConfig) -> Planner[Any]:
        """Return the model's planner."""
        planner: Planner[Any] = load_reference(self.planner_class)(config)
        return planner

    def build(self, config: ModelConfig) -> Task:
        """Build what a run trains, with new weights, on the current default device."""
        task: Task = load_reference(self.task_class)(config)
        return task

    def data(self, config: ModelConfig) -> TaskData:
        """Return the task's data: from clips to batches."""
        data: TaskData = load_reference(self.data_class)(config)
        return data

    def list_interpretations(self, opened: OpenedCheckpoint, *, vocab: str | None) -> Sequence[Interpretation]:
        """List the interpretations of a checkpoint; empty if the task has only one."""
        if not self.interpretations:
            return []
        found: Sequence[Interpretation] = load_reference(self.interpretations)(opened, vocab=vocab)
        return found

    def load_exporter(self) -> Exporter | None:
        exporter: Exporter | None = load_reference(self.export_class)() if self.export_class else None
        return exporter

    def make_blank_batch(self, config: ModelConfig, clips: Sequence[Clip]) -> Batch:
        """Return a batch of these clips' shapes, without their recordings and any encoder.

        Raises RecipeError where the task's family makes none.
        """
        if not self.blank_batch:
            raise RecipeError(f"`{self.name}` cannot be rehearsed: its family makes no blank batches")
        batch: Batch = load_reference(self.blank_batch)(config, clips)
        return batch

    def load_proof(self, task: Task) -> Proof | None:
        proof: Proof | None = load_reference(self.proof_class)(task) if self.proof_class else None
        return proof


@dataclass(frozen=True, slots=True)
class Family:
    """Everything the core knows about a family."""

    name: str
    tasks: Sequence[TaskSpec]
    title: str = ""  # under which people know it; "" for its name
    formats: Sequence[str] = field(default_factory=tuple)  # "module:Class" of its UpstreamFormats
    unknown_files: str = ""  # "module:function" (keys) -> UnknownFile | None, for files that none of its formats takes
    project: str = ""  # "module:Class" of its ProjectFormat, whose module imports no torch
    readers: Sequence[str] = field(default_factory=tuple)  # "module:Class" of its TableFormats, without torch
    line_formats: Sequence[str] = field(default_factory=tuple)  # "module:Class" of its LineFormats, without torch

    def load_formats(self) -> Sequence[UpstreamFormat]:
        return [load_reference(reference)() for reference in self.formats]

    def load_readers(self) -> Sequence[TableFormat]:
        return [load_reference(reference)() for reference in self.readers]

    def load_line_formats(self) -> Sequence[LineFormat]:
        return [load_reference(reference)() for reference in self.line_formats]

    def load_project(self) -> ProjectFormat | None:
        project: ProjectFormat | None = load_reference(self.project)() if self.project else None
        return project
