"""How many of a model's parameters a recipe trains: counted from names and shapes, without torch."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ttstrain import registry
from ttstrain.contract.model import ParameterCounts, ResolvedRecipe
from ttstrain.errors import RecipeError
from ttstrain.recipe.schema import LoraConfig

Shapes = Mapping[str, tuple[int, ...]]


def count_parameters(recipe: ResolvedRecipe) -> ParameterCounts:
    """Count the parameters of a recipe's net and those that are trained.

    Raises RecipeError for a pattern of `lora:` that matches nothing; the patterns of `optim.groups` are checked where
    the groups are built.
    """
    planner = registry.planner_of(recipe)
    frozen_rules = any(rule.frozen is True for rule in recipe.optim.groups)
    if recipe.lora is None and not frozen_rules and not planner.unaveraged():
        total = planner.num_parameters()
        return ParameterCounts(total=total, trained=total, averaged=total, exported=total)
    net = _describe(recipe)
    trained = [name for name in net.shapes if name in net.trainable and not _frozen(name, recipe)]
    exported = {name for name in net.shapes if not any(fnmatchcase(name, pattern) for pattern in planner.unaveraged())}
    return ParameterCounts(
        total=_count(net.shapes.values()),
        trained=_count(net.shapes[name] for name in trained),
        averaged=_count(net.shapes[name] for name in trained if name in exported),
        exported=_count(net.shapes[name] for name in exported),
        adapters=_count(net.shapes[name] for name in net.adapters),
        adapted_layers=net.adapted_layers,
        in_4_bits=_count(net.shapes[name] for name in _in_4_bits(net, recipe)),
    )


def trainable_names(recipe: ResolvedRecipe) -> list[str]:
    """List the parameters that a recipe's net may train, adapters included; rules may still freeze them."""
    net = _describe(recipe)
    return [name for name in net.shapes if name in net.trainable]


def shapes_of(recipe: ResolvedRecipe) -> Shapes:
    """Map the name of every parameter of a recipe's net, adapters included, to its shape."""
    return _describe(recipe).shapes


def block_pattern(recipe: ResolvedRecipe) -> re.Pattern[str] | None:
    """Return what matches the name of a block at the start of a parameter's; None for a task without blocks."""
    patterns = [re.escape(one).replace(r"\*", r"\d+") for one in registry.planner_of(recipe).blocks()]
    return re.compile(rf"(?:{'|'.join(patterns)})(?=\.)") if patterns else None


@dataclass(frozen=True, slots=True)
class _Net:
    shapes: Shapes  # adapters included
    trainable: frozenset[str]  # names of parameters that train unless a rule freezes them
    adapters: tuple[str, ...] = ()
    adapted_layers: int = 0


def _describe(recipe: ResolvedRecipe) -> _Net:
    planner = registry.planner_of(recipe)
    base = planner.parameter_shapes()
    if recipe.lora is None:
        return _Net(base, trainable=frozenset(base))
    layers = _adapted(base, recipe.lora, default=planner.lora_targets())
    adapters = dict(_adapters(base, layers, recipe.lora))
    trainable = frozenset({*adapters, *_unfrozen(base, recipe.lora)})
    return _Net({**base, **adapters}, trainable=trainable, adapters=tuple(adapters), adapted_layers=len(layers))


def _in_4_bits(net: _Net, recipe: ResolvedRecipe) -> Iterator[str]:
    """Yield the weights that `lora.base: nf4` holds in 4 bits: frozen matrices of the net's blocks."""
    block = block_pattern(recipe)
    if recipe.lora is None or recipe.lora.base != "nf4" or block is None:
        return
    for name, shape in net.shapes.items():
        if name.endswith(".weight") and len(shape) == 2 and name not in net.trainable and block.match(name):
            yield name


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


def _frozen(name: str, recipe: ResolvedRecipe) -> bool:
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
