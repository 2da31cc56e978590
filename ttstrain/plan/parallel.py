"""How a run's processes divide its weights: what a recipe asks for, checked against the processes there are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

from ttstrain.contract.model import ResolvedRecipe
from ttstrain.errors import RecipeError
from ttstrain.plan.estimate import ACTIVATIONS
from ttstrain.plan.parameters import block_pattern, shapes_of, trainable_names
from ttstrain.recipe.schema import OptimizerKind

GATHERED = "gathered"
ROOT = ""  # all that is in no block

SHARDABLE: frozenset[OptimizerKind] = frozenset({"adamw", "sgd", "lion", "adan"})
"""Optimizers whose update of a value depends on nothing but that value's own gradient and state."""


def check_parallel(recipe: ResolvedRecipe, world_size: int) -> None:
    """Raise RecipeError where so many processes cannot divide the weights as the recipe says."""
    shard, replicate = recipe.train.parallel.shard, recipe.train.parallel.replicate
    if shard == "auto":
        return  # what is chosen suits them
    processes = "1 process" if world_size == 1 else f"{world_size} processes"
    if replicate is not None and shard * replicate != world_size:
        raise RecipeError(
            f"`train.parallel` asks for {replicate} times {shard} processes, and the run has {processes}",
            hint=f"start it with `--nproc {shard * replicate}`, or leave `train.parallel.replicate` out",
        )
    if world_size % shard:
        raise RecipeError(
            f"`train.parallel.shard` is {shard}, and the run has {processes}",
            hint=f"start it with `--nproc {shard}` or a multiple of it",
        )
    if shard == 1:
        return
    for key, kind in kinds_of(recipe).items():
        if kind not in SHARDABLE:
            raise RecipeError(
                f"`{key}={kind}` looks at whole tensors, and `train.parallel.shard` gives each process some rows",
                hint=f"take one of {', '.join(sorted(SHARDABLE))}, or `train.parallel.shard=1`",
            )


def memory_by_shards(
    memory: Mapping[str, int], recipe: ResolvedRecipe, *, shard: int, weight_bytes: int
) -> dict[str, int]:
    """Return the bytes per part of one of `shard` processes, given those of a process that holds everything.

    `gathered` is what is whole at the peak, in a backward pass: all weights outside the blocks and their gradients, one
    block with its gradients, and the block that is gathered ahead.
    """
    if shard == 1:
        return dict(memory)
    sizes, trained = by_block(recipe, shapes_of(recipe)), by_block(recipe, trainable_names(recipe))
    whole = sizes[ROOT] + trained[ROOT] + 2 * _largest(sizes) + _largest(trained)
    divided = {part: size if part == ACTIVATIONS else -(-size // shard) for part, size in memory.items()}
    return {**divided, GATHERED: weight_bytes * whole}


def by_block(recipe: ResolvedRecipe, names: Iterable[str]) -> Counter[str]:
    """Count the values of these parameters in each block; those of no block are under `ROOT`."""
    shapes = shapes_of(recipe)
    block = block_pattern(recipe)
    counts: Counter[str] = Counter()
    for name in names:
        found = None if block is None else block.match(name)
        counts[ROOT if found is None else found[0]] += math.prod(shapes[name])
    return counts


def _largest(counts: Mapping[str, int]) -> int:
    return max((count for block, count in counts.items() if block != ROOT), default=0)


def kinds_of(recipe: ResolvedRecipe) -> dict[str, OptimizerKind]:
    """Return the kind of each optimizer, by the key that sets it."""
    own = {f"optim.optimizers.{name}.kind": one.kind for name, one in recipe.optim.optimizers.items()}
    return {"optim.kind": recipe.optim.kind, **{key: kind for key, kind in own.items() if kind is not None}}
