"""In which number format a step computes: autocast around the forward, and the loss scale of fp16."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ttstrain.errors import RecipeError

NumberFormat = Literal["fp32", "bf16", "fp16"]
DTYPES: Mapping[NumberFormat, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
BF16_CAPABILITY = (8, 0)  # Ampere; older cards emulate bf16 and are slower with it than without
FP16_CAPABILITY = (7, 0)  # Volta, the first with tensor cores
PROBE_SIZE = 64
PROBE_TOLERANCE = 0.05  # of the largest value: several times what bf16's eight bits make of a sum of 64 products


def choose(
    kind: Literal["auto", "fp32", "bf16", "fp16"],
    device: torch.device,
    *,
    has_bf16: Callable[[torch.device], bool] | None = None,
) -> NumberFormat:
    """Resolve `auto`: bf16 where the device computes in it, fp32 on older cards and on the CPU."""
    if kind != "auto":
        return kind
    return "bf16" if (has_bf16 or really_has_bf16)(device) else "fp32"


def remark(wanted: str, chosen: NumberFormat, device: torch.device) -> str:
    """Say what `auto` did not choose on a GPU, and what may be faster there; "" where there is nothing to say."""
    if wanted != "auto" or chosen != "fp32" or device.type != "cuda":
        return ""
    major, minor = torch.cuda.get_device_capability(device)
    name = torch.cuda.get_device_name(device)
    if (major, minor) >= BF16_CAPABILITY:
        return f"WARNING: {name} computes bf16 wrongly: trained in fp32. Is its driver sound?"
    if (major, minor) >= FP16_CAPABILITY:
        return f"{name} has no bf16: trained in fp32; `train.precision=fp16` may be several times faster"
    return f"{name} has no bf16: trained in fp32"


def really_has_bf16(device: torch.device) -> bool:
    """Tell whether a device has bf16 in hardware, and whether what it computes in it is right.

    Cards of one name differ, and drivers emulate: so a matrix product, a convolution and their gradients are computed.
    A CPU computes in bf16, but no faster.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < BF16_CAPABILITY:
        return False
    return computes_in(torch.bfloat16, device)


def computes_in(dtype: torch.dtype, device: torch.device) -> bool:
    """Compute a product, a convolution and their gradients under autocast; tell whether they are those of fp32."""
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(2, PROBE_SIZE, PROBE_SIZE, generator=generator).to(device)
    weights = (torch.randn(PROBE_SIZE, PROBE_SIZE, 3, generator=generator) / PROBE_SIZE**0.5).to(device)
    try:
        found, expected = _probed(signal, weights, dtype=dtype), _probed(signal, weights, dtype=None)
    except RuntimeError:  # no such kernels
        return False
    return all(_close(one, other) for one, other in zip(found, expected, strict=True))


def _probed(signal: Tensor, weights: Tensor, *, dtype: torch.dtype | None) -> list[Tensor]:
    x, w = signal.clone().requires_grad_(True), weights.clone().requires_grad_(True)
    with nullcontext() if dtype is None else torch.autocast(signal.device.type, dtype=dtype):
        y = F.conv1d(x, w, padding=1) @ w[:, :, 0]
    loss = y.float().square().mean()
    return [y.detach().float(), *(grad.float() for grad in torch.autograd.grad(loss, (x, w)))]


def _close(found: Tensor, expected: Tensor) -> bool:
    error = (found - expected).abs().max()
    return bool(torch.isfinite(found).all()) and bool(error <= PROBE_TOLERANCE * expected.abs().max())


class Precision:
    """Autocast and, under fp16, a dynamic loss scale.

    The scale follows torch's GradScaler: halved when a gradient overflows, doubled after `GROWTH_INTERVAL` good steps.
    GradScaler itself is not used: the training step already checks whether the gradient norm is finite.

    fp16 that overflows whatever the scale gives way to `fall_back`. That is part of the state, as long as the recipe
    asks for what it asked for then.
    """

    INITIAL_SCALE = 2.0**16
    GROWTH_INTERVAL = 2000
    SMALLEST_SCALE = 1.0

    def __init__(self, kind: NumberFormat, device: torch.device) -> None:
        self.kind = kind
        self._wanted = kind
        self._device = device
        self.scale = self.INITIAL_SCALE if kind == "fp16" else 1.0
        self._good_steps = 0

    def fall_back(self, kind: Literal["fp32", "bf16"]) -> None:
        """Compute in another format from now on, without a loss scale."""
        self.kind, self.scale, self._good_steps = kind, 1.0, 0

    def autocast(self) -> Any:
        """Return the context in which forward passes of training and evaluation run."""
        dtype = DTYPES[self.kind]
        return nullcontext() if dtype is None else torch.autocast(self._device.type, dtype=dtype)

    def backward(self, loss: Tensor, *, into: Sequence[Tensor]) -> None:
        """Accumulate the gradient of `loss` into these parameters and no others."""
        if not loss.requires_grad:
            raise RecipeError(
                "no trainable parameter receives a gradient",
                hint="check `frozen` in `optim.groups`, and `lora.targets`",
            )
        torch.autograd.backward(loss * self.scale if self.kind == "fp16" else loss, inputs=list(into))

    def unscale(self, gradients: Sequence[Tensor]) -> None:
        """Take the loss scale out of these gradients, in place."""
        if self.kind == "fp16" and gradients:
            torch._foreach_mul_(list(gradients), 1.0 / self.scale)

    def adapt_scale(self, *, overflowed: bool) -> None:
        """Adapt the scale, once per step and after all optimizers."""
        if self.kind != "fp16":
            return
        if overflowed:
            self.scale = max(self.scale / 2, self.SMALLEST_SCALE)
            self._good_steps = 0
            return
        self._good_steps += 1
        if self._good_steps == self.GROWTH_INTERVAL:
            self.scale *= 2
            self._good_steps = 0

    @property
    def exhausted(self) -> bool:
        """The scale cannot fall further: an overflow is then the run's fault, not the scale's."""
        return self.kind != "fp16" or self.scale <= self.SMALLEST_SCALE

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {"kind": self.kind, "scale": self.scale, "good_steps": self._good_steps}
        return state if self.kind == self._wanted else {**state, "wanted": self._wanted}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        if state_dict.get("wanted", state_dict["kind"]) != self._wanted:
            return  # the recipe asks for another precision, which starts with its own scale
        self.kind = state_dict["kind"]
        self.scale = float(state_dict["scale"])
        self._good_steps = int(state_dict["good_steps"])
