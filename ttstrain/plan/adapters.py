"""Refuse a base in 4 bits (`lora.base: nf4`) that would not be one."""

from __future__ import annotations

from ttstrain.contract.model import ResolvedRecipe
from ttstrain.errors import RecipeError
from ttstrain.plan.parameters import count_parameters


def check_nf4(recipe: ResolvedRecipe) -> None:
    """Refuse a base in 4 bits where nothing would be held so, or what is not made for one. Raises RecipeError."""
    if recipe.lora is None or recipe.lora.base != "nf4":
        return
    if recipe.lora.dora:
        raise RecipeError(
            "`lora.dora` scales rows of the base's weights, and `lora.base=nf4` does not hold them as they are",
            hint="set `lora.dora=false`, or `lora.base=full`",
        )
    if recipe.train.parallel.shard not in (1, "auto"):
        raise RecipeError(
            "`lora.base=nf4` holds weights in blocks, and `train.parallel.shard` would cut them by rows",
            hint="set `train.parallel.shard=1`: adapters over 4 bits are small; or `lora.base=full`",
        )
    if not count_parameters(recipe).in_4_bits:
        raise RecipeError(
            f"`lora.base=nf4` finds nothing to hold in 4 bits: `{recipe.task}` has no blocks with frozen linear layers",
            hint="set `lora.base=full`",
        )
