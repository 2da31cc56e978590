"""Linear layers that compute their products in FP8, by torchao.

A weight stays what it is: a parameter of its own name, shape and type, rounded anew in each pass. Each token's inputs
and gradients are scaled by their own largest value, so that a document's numbers do not depend on what is packed beside
it, as they would with one scale for a whole tensor. The gradients of weights are computed in bf16: their inner
dimension is the tokens, whose number may be any, and an update sums what would be rounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import MethodType

from torch import nn

RECIPE = "rowwise_with_gw_hp"  # torchao's name of the above
MARK = "linear_mm_config"  # an attribute of torchao's layers, whose class is not public


def learn_in_fp8(blocks: Iterable[nn.Module], *, emulate: bool = False) -> None:
    """Put layers that compute in FP8 in the place of all linear ones of blocks; they share their weights.

    `emulate` computes the rounded numbers in fp32 instead, on any device.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    config = replace(Float8LinearConfig.from_recipe_name(RECIPE), emulate=emulate)
    for block in blocks:
        convert_to_float8_training(block, config=config)


@contextmanager
def not_in_fp8(module: nn.Module) -> Iterator[None]:
    """Compute a module inside as if its layers had never been put in FP8."""
    rounding = [layer for layer in module.modules() if isinstance(layer, nn.Linear) and hasattr(layer, MARK)]
    for layer in rounding:
        layer.forward = MethodType(nn.Linear.forward, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in rounding:
            del layer.forward
