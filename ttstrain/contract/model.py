"""Settings of a model, and what a plan must know of it. Imports no torch."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ttstrain.contract.data import Clip, FrontEnd, Review
from ttstrain.recipe.schema import Recipe, Section


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
class ParameterCounts:
    """Scalars of a task's parameters."""

    total: int  # adapters included
    trained: int  # those frozen for some steps only count as trained
    adapters: int = 0
    adapted_layers: int = 0

    @property
    def frozen(self) -> int:
        return self.total - self.trained
