"""In which number format a step computes: autocast around the forward, and the loss scale of fp16."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

from ttstrain.errors import RecipeError
from ttstrain.task import Loss

Kind = Literal["fp32", "bf16", "fp16"]
BF16_CAPABILITY = (8, 0)  # Ampere; older cards emulate bf16 and are slower with it than without


def choose(kind: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device) -> Kind:
    """Resolve `auto`: bf16 where the device computes in it, fp32 on older cards and on the CPU."""
    if kind != "auto":
        return kind
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= BF16_CAPABILITY:
        return "bf16"
    return "fp32"


class Precision:
    """Autocast and, under fp16, a dynamic loss scale.

    The scale follows torch's GradScaler: halved when a gradient overflows, doubled after `GROWTH_INTERVAL` good steps.
    It is ours because the engine already knows whether the gradient norm is finite and need not be told twice.
    """

    INITIAL_SCALE = 2.0**16
    GROWTH_INTERVAL = 2000
    SMALLEST_SCALE = 1.0

    def __init__(self, kind: Kind, device: torch.device) -> None:
        self.kind = kind
        self._device = device
        self._dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[kind]
        self.scale = self.INITIAL_SCALE if kind == "fp16" else 1.0
        self._good_steps = 0

    def forward(self, losses: Iterator[Loss]) -> Iterator[Loss]:
        """Run a task's generator with autocast on inside it and off outside."""
        while True:
            with self.autocast():
                loss = next(losses, None)
            if loss is None:
                return
            yield loss

    def autocast(self) -> Any:
        """Return the context in which forward passes of training and evaluation run."""
        if self._dtype is None:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self._dtype)

    def backward(self, loss: Tensor, *, into: Sequence[Tensor]) -> None:
        """Accumulate the gradient of `loss` into these parameters and no others."""
        if not loss.requires_grad:
            raise RecipeError(
                "the loss does not depend on any trainable parameter", hint="look at `frozen:` in `optim.groups`"
            )
        torch.autograd.backward(loss * self.scale if self.kind == "fp16" else loss, inputs=list(into))

    def unscale(self, gradients: Sequence[Tensor]) -> None:
        """Take the loss scale out of these gradients, in place."""
        if self.kind == "fp16" and gradients:
            torch._foreach_mul_(list(gradients), 1.0 / self.scale)

    def settle(self, *, overflowed: bool) -> None:
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
        return {"kind": self.kind, "scale": self.scale, "good_steps": self._good_steps}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        if state_dict["kind"] == self.kind:  # another precision starts with its own scale
            self.scale = float(state_dict["scale"])
            self._good_steps = int(state_dict["good_steps"])
