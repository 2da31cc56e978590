"""Liger's fused kernels in the place of a Llama's norms, gated activations and rotary positions.

Liger's own patch of a net also changes transformers' module, and with it every Llama of the process, wherever its
tensors are. Here nothing but the net changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType, MethodType
from typing import Any, Final

from torch import nn
from transformers import LlamaForCausalLM
from transformers.models.llama import modeling_llama

from ttstrain.errors import RecipeError
from ttstrain.modules.quiet import quiet_liger

ROTATE: Final = "apply_rotary_pos_emb"
CHANGED: Final = (ROTATE, "LlamaRMSNorm", "LlamaMLP")  # of transformers' module, by `apply_liger_kernel_to_llama`


def fuse(net: LlamaForCausalLM) -> None:
    """Have a net computed by Liger's kernels, with its head and loss as they are. Names of weights stay.

    Raises RecipeError where this release of transformers keeps its rotation elsewhere.
    """
    quiet_liger()
    from liger_kernel.transformers import apply_liger_kernel_to_llama

    with _unchanged():
        apply_liger_kernel_to_llama(
            rope=True, rms_norm=True, swiglu=True, cross_entropy=False, fused_linear_cross_entropy=False, model=net
        )
        rotate = getattr(modeling_llama, ROTATE)
    for layer in net.model.layers:
        _rotate_by(rotate, layer.self_attn)


@contextmanager
def _unchanged() -> Iterator[None]:
    """Put back at the end what the block changes of transformers' module."""
    before = {name: getattr(modeling_llama, name) for name in CHANGED}
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(modeling_llama, name, value)


def _rotate_by(rotate: Any, attention: nn.Module) -> None:
    """Have one layer's attention find another function under the name by which it rotates queries and keys."""
    plain: Any = type(attention).forward
    if ROTATE not in plain.__code__.co_names:
        raise RecipeError(
            f"`train.kernels=liger`: the attention of this transformers does not call `{ROTATE}`, which Liger computes",
            hint="set `train.kernels=torch`",
        )
    names = {**plain.__globals__, ROTATE: rotate}
    forward = FunctionType(plain.__code__, names, plain.__name__, plain.__defaults__, plain.__closure__)
    forward.__kwdefaults__ = plain.__kwdefaults__
    attention.forward = MethodType(forward, attention)
