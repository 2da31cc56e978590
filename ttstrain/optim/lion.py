"""Lion: the sign of an interpolated momentum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ttstrain.tensors.sharded import held


class Lion(torch.optim.Optimizer):
    """Chen et al., Symbolic Discovery of Optimization Algorithms (arXiv 2302.06675), algorithm 2.

    Every weight moves by exactly the LR, so Lion wants 3 to 10 times less LR than AdamW and as much more weight decay.
    """

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        """Take groups with `params`, `lr`, `betas` and `weight_decay`."""
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            trained: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            if not trained:
                continue
            for p in trained:
                if not self.state[p]:
                    self.state[p]["exp_avg"] = torch.zeros_like(p)
            parameters = [held(p) for p in trained]
            gradients = [held(p.grad) for p in trained if p.grad is not None]
            momenta = [held(self.state[p]["exp_avg"]) for p in trained]
            beta1, beta2 = group["betas"]
            direction = torch._foreach_lerp(momenta, gradients, 1 - beta1)
            torch._foreach_sign_(direction)
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, direction, alpha=-group["lr"])
            torch._foreach_lerp_(momenta, gradients, 1 - beta2)
