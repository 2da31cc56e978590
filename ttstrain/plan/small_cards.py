"""Refuse what spares memory where it would not, or is not made for it: `lora.base: nf4`, `optim.offload`."""

from __future__ import annotations

from collections.abc import Iterator

from ttstrain.contract.model import ResolvedRecipe
from ttstrain.errors import RecipeError
from ttstrain.plan.parallel import kinds_of
from ttstrain.plan.parameters import count_parameters


def small_card_notes(recipe: ResolvedRecipe) -> Iterator[str]:
    """Yield what a user should know before a run with a base in 4 bits."""
    if recipe.lora is not None and recipe.lora.base == "nf4":
        yield (
            "the adapters are trained, evaluated and sampled over weights rounded to 4 bits (`lora.base=nf4`), and "
            "exported over the base's own weights: listen to the export."
        )


def check_small_cards(recipe: ResolvedRecipe) -> None:
    """Refuse what spares memory where it cannot work. Raises RecipeError."""
    _check_nf4(recipe)
    _check_offload(recipe)


def _check_nf4(recipe: ResolvedRecipe) -> None:
    """Refuse a base in 4 bits where nothing would be held so, or what is not made for one."""
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
    if recipe.train.compile:
        raise RecipeError(
            "`train.compile` and `lora.base=nf4` do not go together: torch's compiler cannot read products in 4 bits",
            hint="leave `train.compile` out, or set `lora.base=full`",
        )
    if not count_parameters(recipe).in_4_bits:
        raise RecipeError(
            f"`lora.base=nf4` finds nothing to hold in 4 bits: `{recipe.task}` has no blocks with frozen linear layers",
            hint="set `lora.base=full`",
        )


def _check_offload(recipe: ResolvedRecipe) -> None:
    """Refuse state on the host for optimizers and processes that do not have it there."""
    if not recipe.optim.offload:
        return
    for key, kind in kinds_of(recipe).items():
        if kind != "adamw":
            raise RecipeError(
                f"`optim.offload` keeps the state of `adamw` on the host, and `{key}` is `{kind}`",
                hint="set it to `adamw`, or `optim.offload=false`",
            )
    if recipe.train.parallel.shard not in (1, "auto"):
        raise RecipeError(
            "`optim.offload` keeps whole state on the host, and `train.parallel.shard` divides it over the GPUs",
            hint="drop one of the two",
        )
