"""How many of a model's parameters a recipe trains: counted from names and shapes, without torch."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ttstrain import families
from ttstrain.config.recipe import LoraConfig, Recipe
from ttstrain.errors import RecipeError

Shapes = Mapping[str, tuple[int, ...]]


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


def count_parameters(recipe: Recipe) -> ParameterCounts:
    """Count what a recipe's net holds and what of it is trained.

    Raises RecipeError for a pattern of `lora:` that matches nothing; the patterns of `optim.groups` are checked where
    the groups are built.
    """
    config = families.find_task(recipe.task).config.model_validate(recipe.model)
    frozen_rules = any(rule.frozen is True for rule in recipe.optim.groups)
    if recipe.lora is None and not frozen_rules:
        total = config.num_parameters()
        return ParameterCounts(total=total, trained=total)
    base = config.parameter_shapes()
    adapters: Shapes = {}
    trainable = set(base)
    layers: list[str] = []
    if recipe.lora is not None:
        layers = _adapted(base, recipe.lora, default=config.lora_targets())
        adapters = dict(_adapters(base, layers, recipe.lora))
        trainable = {*adapters, *_unfrozen(base, recipe.lora)}
    every = {**base, **adapters}
    trained = [name for name in every if name in trainable and not _frozen(name, recipe)]
    return ParameterCounts(
        total=_count(every.values()),
        trained=_count(every[name] for name in trained),
        adapters=_count(adapters.values()),
        adapted_layers=len(layers),
    )


def _adapted(base: Shapes, lora: LoraConfig, *, default: Sequence[str]) -> list[str]:
    layers = [
        name.removesuffix(".weight") for name, shape in base.items() if name.endswith(".weight") and len(shape) == 2
    ]
    patterns = default if lora.targets == "auto" else lora.targets
    for pattern in patterns:
        _check_matches("targets", pattern, layers)
    return [layer for layer in layers if any(fnmatchcase(layer, pattern) for pattern in patterns)]


def _adapters(base: Shapes, layers: Sequence[str], lora: LoraConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    for layer in layers:
        outputs, inputs = base[f"{layer}.weight"]
        yield f"{layer}.lora_A.weight", (lora.rank, inputs)
        yield f"{layer}.lora_B.weight", (outputs, lora.rank)
        if lora.dora:
            yield f"{layer}.lora_magnitude_vector.weight", (outputs,)


def _unfrozen(base: Shapes, lora: LoraConfig) -> Iterator[str]:
    for pattern in lora.unfrozen:
        _check_matches("unfrozen", pattern, list(base))
        yield from (name for name in base if fnmatchcase(name, pattern))


def _frozen(name: str, recipe: Recipe) -> bool:
    """Tell whether the first rule that matches a parameter freezes it for good."""
    matching = (rule for rule in recipe.optim.groups if any(fnmatchcase(name, pattern) for pattern in rule.match))
    first = next(matching, None)
    return first is not None and first.frozen is True


def _check_matches(key: str, pattern: str, names: Sequence[str]) -> None:
    if any(fnmatchcase(name, pattern) for name in names):
        return
    near = difflib.get_close_matches(pattern.strip("*."), names, n=2, cutoff=0.0)
    raise RecipeError(
        f"`lora.{key}`: pattern `{pattern}` matches nothing",
        hint=f"`*` also crosses dots; names look like {', '.join(f'`{name}`' for name in near)}",
    )


def _count(shapes: Iterable[tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes)
