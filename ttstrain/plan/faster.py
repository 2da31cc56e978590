"""Refuse `train.kernels: liger` and `train.fp8` where they cannot work, or were never tried."""

from __future__ import annotations

from collections.abc import Iterator

from ttstrain import registry
from ttstrain.contract.model import ResolvedRecipe
from ttstrain.errors import RecipeError
from ttstrain.plan.parameters import block_pattern

FP8_MULTIPLE = 16  # of both sides of a matrix: `torch._scaled_mm` takes no other


def faster_notes(recipe: ResolvedRecipe) -> Iterator[str]:
    """Yield what a user should know before a run with products in FP8."""
    if recipe.train.fp8:
        yield (
            "the layers' products are computed in FP8 (`train.fp8`), in evaluations and samples too, and exports are "
            "whole weights: listen to the export. FP8 has not been measured on a GPU."
        )


def check_faster(recipe: ResolvedRecipe) -> None:
    """Refuse fused kernels and FP8 for tasks, settings and sizes they are not made for. Raises RecipeError."""
    planner = registry.planner_of(recipe)
    if recipe.train.kernels == "liger":
        _check_task("train.kernels=liger", recipe, offered=planner.fuses, leave="train.kernels=torch")
    if recipe.train.fp8:
        _check_task("train.fp8", recipe, offered=planner.learns_in_fp8, leave="train.fp8=false")
        _check_fp8(recipe)


def _check_task(key: str, recipe: ResolvedRecipe, *, offered: bool, leave: str) -> None:
    if not offered:
        raise RecipeError(f"`{key}` is not for `{recipe.task}`", hint=f"set `{leave}`")
    if recipe.train.device == "cpu":
        raise RecipeError(f"`{key}` needs a GPU, and `train.device` is `cpu`", hint=f"set `{leave}`")
    if recipe.train.parallel.shard not in (1, "auto"):
        raise RecipeError(
            f"`{key}` has not been tried on weights that `train.parallel.shard` divides",
            hint=f"set `train.parallel.shard=1`, or `{leave}`",
        )


def _check_fp8(recipe: ResolvedRecipe) -> None:
    if recipe.lora is not None:
        raise RecipeError(
            "`train.fp8` is for training whole weights: adapters would be trained over layers that round otherwise",
            hint="leave `lora` out, or set `train.fp8=false`; `lora.base=nf4` spares memory",
        )
    if recipe.train.precision not in ("auto", "bf16"):
        raise RecipeError(
            f"`train.fp8` computes beside bf16, and `train.precision` is `{recipe.train.precision}`",
            hint="set `train.precision=bf16`, or `train.fp8=false`",
        )
    block = block_pattern(recipe)
    for name, shape in registry.planner_of(recipe).parameter_shapes().items():
        inside = block is not None and block.match(name) and len(shape) == 2
        if inside and any(side % FP8_MULTIPLE for side in shape):
            raise RecipeError(
                f"`train.fp8` needs matrices whose sides are multiples of {FP8_MULTIPLE}, and `{name}` is "
                f"{shape[0]:,} x {shape[1]:,}",
                hint="set `train.fp8=false`",
            )
