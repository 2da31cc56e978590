"""How a run's processes divide its weights: what a recipe asks for, checked against the processes there are."""

from __future__ import annotations

from ttstrain.contract.model import ResolvedRecipe
from ttstrain.errors import RecipeError
from ttstrain.recipe.schema import OptimizerKind

SHARDABLE: frozenset[OptimizerKind] = frozenset({"adamw", "sgd", "lion", "adan"})
"""Optimizers whose update of a value depends on nothing but that value's own gradient and state."""


def check_parallel(recipe: ResolvedRecipe, world_size: int) -> None:
    """Raise RecipeError where so many processes cannot divide the weights as the recipe says."""
    shard, replicate = recipe.train.parallel.shard, recipe.train.parallel.replicate
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


def kinds_of(recipe: ResolvedRecipe) -> dict[str, OptimizerKind]:
    """Return the kind of each optimizer, by the key that sets it."""
    own = {f"optim.optimizers.{name}.kind": one.kind for name, one in recipe.optim.optimizers.items()}
    return {"optim.kind": recipe.optim.kind, **{key: kind for key, kind in own.items() if kind is not None}}
