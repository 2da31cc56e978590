"""Settings of a model, what a plan must know of it, and the recipe that holds them. Imports no torch."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

from pydantic import SerializeAsAny

from ttstrain.contract.data import Clip, FrontEnd, Review
from ttstrain.recipe.schema import Recipe, RunSettings, Section


class ModelConfig(Section):
    """The settings of a recipe's `model:` section; derived values are the planner's."""


Config = TypeVar("Config", bound=ModelConfig)
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a weight in 4 bits: itself, its part of a block's scale, and that scale's part of one of its own."""


class ResolvedRecipe(RunSettings):
    """A recipe whose `model:` section has been checked against its task's settings, all defaults filled in."""

    model: SerializeAsAny[ModelConfig]

    @classmethod
    def of(cls, recipe: Recipe, model: ModelConfig) -> ResolvedRecipe:
        """Return a checked recipe with its model's settings in the place of the section."""
        values = {name: getattr(recipe, name) for name in type(recipe).model_fields}
        return cls.model_construct(_fields_set=recipe.model_fields_set, **{**values, "model": model})

    def section(self) -> dict[str, Any]:
        """Return the complete `model:` section as JSON values."""
        return self.model.model_dump(mode="json")


@dataclass(frozen=True, slots=True)
class ParameterCounts:
    """Scalars of a task's parameters."""

    total: int  # adapters included
    trained: int  # those frozen for some steps only count as trained
    averaged: int  # of those trained, the ones that have an EMA weight
    exported: int  # all of the nets that have EMA weights, frozen ones included
    adapters: int = 0
    adapted_layers: int = 0
    in_4_bits: int = 0  # of those that are frozen

    @property
    def frozen(self) -> int:
        return self.total - self.trained


@dataclass(frozen=True, slots=True)
class PeakMoment:
    """What lies on the device at one moment of a step beside weights, EMA weights and optimizer state, in bytes."""

    activations: int  # with copies of weights, logits and whatever else the passes hold
    gradients: int = 0  # of the first micro-batch; a later one finds the gradients of all trained weights


class Planner(ABC, Generic[Config]):
    """What a plan needs to know of a model before it is built. Made from its settings; its module imports no torch."""

    packed: bool = False
    """As `TaskData.packed`."""
    features_on_host: ClassVar[bool] = False
    """Whether examples are laid out on the host: features cannot be kept on the device."""
    compiles: ClassVar[bool] = False
    """Whether a few compiled forms of the task's `repeated_blocks` serve batches of any size."""
    fuses: ClassVar[bool] = False
    """Whether the task is a `FusesKernels`."""
    learns_in_fp8: ClassVar[bool] = False
    """Whether the linear layers of the task's `repeated_blocks` may compute in FP8."""

    def __init__(self, config: Config) -> None:
        self.config = config

    @abstractmethod
    def parameter_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Map the name of every trainable parameter of the task to its shape."""

    @abstractmethod
    def length(self, clip: Clip) -> int:
        """Return the clip's length in frames, known from its duration without decoding; as `TaskData.length`."""

    def lengths(self, clips: Sequence[Clip]) -> Sequence[int]:
        """Return the length of every clip; a family may find them faster than one by one."""
        return [self.length(clip) for clip in clips]

    def num_parameters(self) -> int:
        """Return the number of trainable parameters."""
        return sum(math.prod(shape) for shape in self.parameter_shapes().values())

    def optimizers(self) -> Mapping[str, Sequence[str]]:
        """Map each optimizer of the task, in its order, to patterns over the names of the parameters that it trains."""
        return {"model": ("*",)}

    def unaveraged(self) -> Sequence[str]:
        """Return patterns of the parameters that have no EMA weights: those of nets that only help in training."""
        return ()

    def blocks(self) -> Sequence[str]:
        """Return patterns of the names of the task's `repeated_blocks`; `*` is a block's number."""
        return ()

    def weight_bytes(self) -> int:
        """Return the bytes of one trained weight, and of its gradient."""
        return 4

    def peak_moments(self, recipe: RunSettings, lengths: Sequence[int]) -> Sequence[PeakMoment]:
        """Return the moments of a step at which most memory is taken by a micro-batch of clips of these lengths.

        Counted for a GPU, `precision: auto` as half precision; within 10 % of a rehearsal. Empty: not known.
        """
        return ()

    def lora_targets(self) -> Sequence[str]:
        """Return patterns of the linear layers that LoRA adapts when the recipe names none."""
        return ()

    def check_run(self, recipe: RunSettings, *, steps: int) -> None:
        """Refuse settings that contradict the rest of the recipe or the length of the run.

        Raises RecipeError.
        """
        return

    def review(self, clips: Sequence[Clip]) -> Review:
        """Return the family's findings about audited clips; no features are computed for clips it leaves out."""
        return Review()

    def front_end(self) -> FrontEnd | None:
        """Return the text front end; None if the family reports nothing about texts."""
        return None

    def speech_files(self) -> Mapping[str, str | None]:
        """Map the keys of `model` that name weights which generating speech needs besides the trained ones.

        The value is the recipe's; None: it is not set, and no speech can be generated.
        """
        return {}

    def lacks_for_speech(self) -> str:
        """Name the first of `speech_files` that is not set, as `model.<key>`; "" where speech can be generated."""
        return next((f"model.{key}" for key, value in self.speech_files().items() if value is None), "")


# ---------------------------------------------------------------- what some planners can do besides


@dataclass(frozen=True, slots=True)
class MemoryScheme:
    """One way to train a model and what it needs on the device."""

    name: str
    keys: str  # of the recipe, that choose it
    state: int  # bytes of weights, their copies, gradients and optimizer state
    activations: int  # bytes of one micro-batch, about
    chosen: bool  # the recipe's own


@runtime_checkable
class ComparesMemory(Protocol):
    """A planner that knows several ways to train its model."""

    def memory_schemes(self, recipe: RunSettings, parameters: ParameterCounts) -> Sequence[MemoryScheme]:
        """Return the ways to train this model from the largest down, for a plan's table."""
        ...


@runtime_checkable
class KeepsFiles(Protocol):
    """A planner whose model needs files of the user's, a vocabulary for instance, wherever its weights go."""

    def kept_files(self) -> Mapping[str, str]:
        """Map keys that name a file of the user's to its text; every checkpoint keeps a copy, `<key>.txt`.

        Raises RecipeError when a file cannot be used.
        """
        ...


@runtime_checkable
class ExtendsVocab(Protocol):
    """A planner whose model takes a vocabulary of the user's; others have a fixed one."""

    def vocab_key(self) -> str:
        """Return the recipe key that names the vocabulary's file."""
        ...


@runtime_checkable
class MixesAuxiliaryData(Protocol):
    """A planner whose task trains on examples without recordings, too."""

    def auxiliary_ratio(self, progress: float) -> float:
        """Return the number of auxiliary micro-batches per micro-batch of clips, at a share of the run in [0, 1]."""
        ...
