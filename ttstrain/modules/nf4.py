"""Frozen linear layers whose weights are held in 4 bits, computed anew for every product.

The numbers are NF4 in blocks of 64, each with a scale that is itself held in 8 bits: QLoRA's double quantization
(Dettmers et al. 2023), by the kernels of bitsandbytes. 0.52 bytes hold a weight.

Legend: o outputs, i inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ttstrain.modules.quiet import quiet_bitsandbytes

BLOCK = 64  # weights with one scale
SCALES = 256  # scales with one scale of their own
NUM_VALUES = 256  # that a scale in 8 bits can have


class Nf4Linear(nn.Module):
    """A linear layer with a frozen weight in 4 bits.

    Its `weight` is an outline, a meta tensor (o, i): name, shape and type of what is loaded into it, without values.
    Loading a state dict rounds its weight to 4 bits; loading an outline leaves what is held as it is.
    """

    codes: Tensor  # (ceil(o * i / 2), 1) uint8, two weights each
    scales: Tensor  # (blocks,) uint8
    scales_of_scales: Tensor  # (ceil(blocks / 256),) float32
    mean_scale: Tensor  # () float32
    values: Tensor  # (256,) float32, what the bytes of `scales` stand for

    def __init__(self, layer: nn.Linear) -> None:
        """Take the place of a layer. Its weight is not taken over: it is loaded."""
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight = _outline(layer.weight, layer.weight.dtype)
        self.bias = layer.bias
        device, size = layer.weight.device, layer.weight.numel()
        blocks = -(-size // BLOCK)
        for name, shape, dtype in (
            ("codes", (-(-size // 2), 1), torch.uint8),
            ("scales", (blocks,), torch.uint8),
            ("scales_of_scales", (-(-blocks // SCALES),), torch.float32),
            ("mean_scale", (), torch.float32),
            ("values", (NUM_VALUES,), torch.float32),
        ):
            self.register_buffer(name, torch.zeros(shape, dtype=dtype, device=device), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., i) to (..., o) in the type of `x`, or in that of autocast."""
        product: Tensor = _Product.apply(x, self.bias, self)  # type: ignore[no-untyped-call]
        return product

    @torch.no_grad()
    def hold(self, weight: Tensor) -> None:
        """Round a weight (o, i) to 4 bits and hold it."""
        flat = weight.to(self.codes.device, self.weight.dtype).reshape(-1)
        codes, state = _functional().quantize_4bit(flat, blocksize=BLOCK, compress_statistics=True, quant_type="nf4")
        nested = state.state2
        held = (codes, state.absmax, nested.absmax, state.offset, nested.code)
        for buffer, found in zip(self.buffers(recurse=False), held, strict=True):
            buffer.copy_(found)

    @torch.no_grad()
    def rounded(self, dtype: torch.dtype | None = None) -> Tensor:
        """Compute the weight (o, i) that is held, in a type of floating point, by default that of its outline."""
        functional = _functional()
        nested = functional.QuantState(
            absmax=self.scales_of_scales, code=self.values, blocksize=SCALES, dtype=torch.float32
        )
        state = functional.QuantState(
            absmax=self.scales,
            # One row: the CPU's kernel of bitsandbytes 0.50 reads other scales where a block reaches over two rows.
            shape=(1, self.weight.numel()),
            blocksize=BLOCK,
            quant_type="nf4",
            dtype=self.weight.dtype if dtype is None else dtype,
            offset=self.mean_scale,
            state2=nested,
        )
        weight: Tensor = functional.dequantize_4bit(self.codes, state)
        return weight.view(self.weight.shape)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, nf4"

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *arguments: Any) -> None:
        """Round what is loaded; a weight of another shape is left to torch, which names it."""
        key = f"{prefix}weight"
        found = state_dict.get(key)
        if isinstance(found, Tensor) and found.shape == self.weight.shape and not found.is_meta:
            self.hold(found)
            state_dict = {**state_dict, key: self.weight}
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def _apply(self, fn: Any, recurse: bool = True) -> Nf4Linear:
        """Move what is held, its scales in fp32 as they are; the outline stays where it is and takes the new type."""
        outline, exact = self.weight, {name: one for name, one in self.named_buffers() if one.is_floating_point()}
        self.weight = nn.Parameter(self.codes.new_empty(0, dtype=outline.dtype), requires_grad=False)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in exact.items():
            setattr(self, name, buffer.to(getattr(self, name).device))
        dtype = self.weight.dtype
        self.weight = outline if outline.dtype == dtype else _outline(outline, dtype)
        return self


class _Product(torch.autograd.Function):
    """`x` times a weight that is computed for the forward pass and once more for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, layer: Nf4Linear) -> Tensor:
        ctx.layer, ctx.dtype, ctx.bias_dtype = layer, x.dtype, None if bias is None else bias.dtype
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        return F.linear(x, layer.rounded(dtype), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        of_x = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = (gradient @ ctx.layer.rounded(gradient.dtype)).to(ctx.dtype)
        if ctx.needs_input_grad[1]:
            of_bias = gradient.flatten(0, -2).sum(0).to(ctx.bias_dtype)
        return of_x, of_bias, None


def hold_in_4_bits(blocks: Iterable[nn.Module]) -> None:
    """Put layers in 4 bits, whose weights are still to be loaded, in the place of all frozen linear ones of blocks."""
    for block in blocks:
        frozen = [
            (parent, name, layer)
            for parent in block.modules()
            for name, layer in parent.named_children()
            if isinstance(layer, nn.Linear) and not layer.weight.requires_grad
        ]
        for parent, name, layer in frozen:
            setattr(parent, name, Nf4Linear(layer))


def outlines(module: nn.Module) -> dict[str, Nf4Linear]:
    """Map the name of each weight that a module holds in 4 bits to its layer."""
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, Nf4Linear)}
    return {f"{name}.weight".lstrip("."): layer for name, layer in layers.items()}


def bits_of(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's state dict with what is held in 4 bits in the place of its outlines."""
    found = {name: tensor for name, tensor in module.state_dict().items() if not tensor.is_meta}
    return found | {
        f"{name}/{part}": buffer
        for name, layer in outlines(module).items()
        for part, buffer in layer.named_buffers(recurse=False)
    }


def _outline(weight: Tensor, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(torch.empty(weight.shape, dtype=dtype, device="meta"), requires_grad=False)


def _functional() -> Any:
    quiet_bitsandbytes()
    import bitsandbytes.functional

    return bitsandbytes.functional
