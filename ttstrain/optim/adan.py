"""Adan: Adam with Nesterov momentum taken from differences of gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ttstrain.tensors.sharded import held

BETA_DIFFERENCE = 0.92  # the paper's decay of the gradient differences; its beta2 is 1 - 0.92


class Adan(torch.optim.Optimizer):
    """Xie et al., Adan (arXiv 2208.06677), algorithm 1 with Adam's bias corrections and decoupled weight decay.

    `betas` are the decays of the first and of the second moment, in Adam's notation: 1 minus the paper's values. The
    paper recommends (0.98, 0.99). The optimizer state is four copies of the weights: three moments and the last
    gradient.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, eps: float) -> None:
        """Take groups with `params`, `lr`, `betas` and `weight_decay`."""
        super().__init__(groups, {"eps": eps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            parameters: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            gradients = [p.grad for p in parameters if p.grad is not None]
            states = [self._state(p, gradient) for p, gradient in zip(parameters, gradients, strict=True)]
            for state in states:
                state["step"] += 1
            steps = [state["step"].item() for state in states]  # on the host: no wait
            _update(
                [held(p) for p in parameters],
                [held(gradient) for gradient in gradients],
                previous=[held(state["previous_grad"]) for state in states],
                means=[held(state["exp_avg"]) for state in states],
                differences=[held(state["exp_avg_diff"]) for state in states],
                squares=[held(state["exp_avg_sq"]) for state in states],
                steps=steps,
                group=group,
            )

    def _state(self, parameter: Tensor, gradient: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())  # per parameter: a group that was frozen for a while starts later
            for name in ("exp_avg", "exp_avg_diff", "exp_avg_sq"):
                state[name] = torch.zeros_like(parameter)
            state["previous_grad"] = gradient.clone()  # the first difference is zero
        return state


def _update(
    parameters: list[Tensor],
    gradients: list[Tensor],
    *,
    previous: list[Tensor],
    means: list[Tensor],
    differences: list[Tensor],
    squares: list[Tensor],
    steps: list[float],
    group: dict[str, Any],
) -> None:
    lr, (beta1, beta3), beta2 = group["lr"], group["betas"], BETA_DIFFERENCE
    change = torch._foreach_sub(gradients, previous)
    torch._foreach_copy_(previous, gradients)
    torch._foreach_lerp_(means, gradients, 1 - beta1)
    torch._foreach_lerp_(differences, change, 1 - beta2)
    torch._foreach_mul_(change, beta2)
    torch._foreach_add_(change, gradients)  # the Nesterov gradient
    torch._foreach_mul_(squares, beta3)
    torch._foreach_addcmul_(squares, change, change, 1 - beta3)

    scale = torch._foreach_div(squares, [1 - beta3**step for step in steps])
    torch._foreach_sqrt_(scale)
    torch._foreach_add_(scale, group["eps"])
    torch._foreach_addcdiv_(parameters, means, scale, [-lr / (1 - beta1**step) for step in steps])
    torch._foreach_addcdiv_(parameters, differences, scale, [-lr * beta2 / (1 - beta2**step) for step in steps])
    torch._foreach_div_(parameters, 1 + lr * group["weight_decay"])
