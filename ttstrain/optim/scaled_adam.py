"""ScaledAdam: Adam whose step is relative to the size of each tensor, and that learns the size itself.

Rules and constants are those of the optimizer that GPT-SoVITS trains its GPT with, which comes from icefall.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SCALAR_LR_SCALE = 0.1  # LR of sizes and of tensors of one value, as a factor of the LR
MIN_RMS, MAX_RMS = 1e-5, 3.0  # a tensor's size is neither shrunk below nor grown above
SCALAR_MAX = 10.0  # largest absolute value of a tensor of one value
SIZE_PERIOD = 4  # updates between changes of size
CORRECTED_BELOW = 0.99  # the second moment's bias is corrected while it is larger than 1 % of it
CLIPPING_SCALE = 2.0  # times the median of the norms of a period
CLIPPING_PERIOD = 1000

STATE = frozenset({"step", "delta", "exp_avg_sq"})
EXTRA = frozenset({"param_rms", "scale_exp_avg_sq", "scale_grads", "model_norms", "model_norm_threshold"})


@dataclass(frozen=True, slots=True)
class _Stack:
    """State of tensors of one shape, side by side; the state of each is a view of it."""

    delta: Tensor  # (k, *shape), the change of the last update
    exp_avg_sq: Tensor  # (k, *shape)
    param_rms: Tensor  # (k,), every fourth update's
    scale_exp_avg_sq: Tensor  # (k,)
    scale_grads: Tensor  # (k, 4), of the last updates with respect to the logarithm of the size


class ScaledAdam(torch.optim.Optimizer):
    """Povey's ScaledAdam: `lr` is the share of its size that a tensor may move by in an update.

    A gradient is clipped against the median norm of the last thousand, and only where it changes sizes, as upstream.
    A tensor without a gradient is left alone, where upstream takes its gradient as zero. Weight decay, which upstream
    has none of, shrinks weights by `lr * weight_decay`.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        eps: float,
        clipping_scale: float = CLIPPING_SCALE,
        clipping_period: int = CLIPPING_PERIOD,
    ) -> None:
        """Take groups with `params`, `lr`, `betas` and `weight_decay`."""
        super().__init__(groups, {"eps": eps})
        self._clipping_scale = clipping_scale
        self._clipping_period = clipping_period
        self._stacks: dict[tuple[int, ...], _Stack] = {}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        work: list[tuple[dict[str, Any], list[Tensor], list[Tensor], _Stack]] = []
        for group in self.param_groups:
            for parameters in self._alike([p for p in group["params"] if p.grad is not None]):
                gradients = [p.grad for p in parameters if p.grad is not None]
                work.append((group, parameters, gradients, self._stack(parameters)))
        if not work:
            return
        stacked = [torch.stack(gradients) if len(gradients) > 1 else gradients[0][None] for _, _, gradients, _ in work]
        clip = self._clip(work, stacked)
        for (group, parameters, _, stack), gradient in zip(work, stacked, strict=True):
            step = int(self.state[parameters[0]]["step"])  # on the host: no wait
            if parameters[0].numel() == 1:
                _update_scalars(parameters, gradient, stack, group, step=step)
            else:
                _update(parameters, gradient, stack, group, step=step, clip=clip)
            for parameter in parameters:
                self.state[parameter]["step"] += 1

    def _alike(self, parameters: Sequence[Tensor]) -> list[list[Tensor]]:
        """Sort tensors into those that one call updates: of a shape and a number of updates."""
        alike: dict[Hashable, list[Tensor]] = {}
        for parameter in parameters:
            self._ensure_state(parameter)
            step = int(self.state[parameter]["step"])
            key = parameter if self._alone(parameter) else (parameter.shape, parameter.dtype, parameter.device, step)
            alike.setdefault(key, []).append(parameter)
        return list(alike.values())

    @staticmethod
    def _alone(parameter: Tensor) -> bool:
        """Whether to update a parameter by itself. True on a CPU, where stacking gradients costs more than it saves."""
        return parameter.is_cpu

    def _ensure_state(self, parameter: Tensor) -> None:
        state = self.state[parameter]
        if "step" not in state:
            state["step"] = torch.zeros(())
            state["delta"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
            if parameter.numel() > 1:
                state["param_rms"] = parameter.square().mean().sqrt()
                state["scale_exp_avg_sq"] = torch.zeros_like(state["param_rms"])
                state["scale_grads"] = state["param_rms"].new_zeros(SIZE_PERIOD)

    def _stack(self, parameters: Sequence[Tensor]) -> _Stack:
        """Return the state of these tensors side by side, and make theirs views of it if they are not.

        Loading a state, or a tensor that takes part for the first time, breaks them up.
        """
        key = tuple(map(id, parameters))
        stack = self._stacks.get(key)
        if stack is None or any(self._is_apart(p, stack, place) for place, p in enumerate(parameters)):
            states = [self.state[parameter] for parameter in parameters]
            sizes = parameters[0].numel() > 1
            none = parameters[0].new_zeros(0)
            stack = _Stack(
                delta=torch.stack([state["delta"] for state in states]),
                exp_avg_sq=torch.stack([state["exp_avg_sq"] for state in states]),
                param_rms=torch.stack([state["param_rms"] for state in states]) if sizes else none,
                scale_exp_avg_sq=torch.stack([state["scale_exp_avg_sq"] for state in states]) if sizes else none,
                scale_grads=torch.stack([state["scale_grads"] for state in states]) if sizes else none,
            )
            for place, state in enumerate(states):
                state["delta"], state["exp_avg_sq"] = stack.delta[place], stack.exp_avg_sq[place]
                if sizes:
                    state["param_rms"], state["scale_exp_avg_sq"] = (
                        stack.param_rms[place],
                        stack.scale_exp_avg_sq[place],
                    )
                    state["scale_grads"] = stack.scale_grads[place]
            self._stacks = {known: value for known, value in self._stacks.items() if not set(known) & set(key)}
            self._stacks[key] = stack
        return stack

    def _is_apart(self, parameter: Tensor, stack: _Stack, place: int) -> bool:
        state = self.state[parameter]
        pairs = [(state["delta"], stack.delta[place]), (state["exp_avg_sq"], stack.exp_avg_sq[place])]
        if parameter.numel() > 1:
            pairs += [
                (state["param_rms"], stack.param_rms[place]),
                (state["scale_exp_avg_sq"], stack.scale_exp_avg_sq[place]),
                (state["scale_grads"], stack.scale_grads[place]),
            ]
        return any(own.data_ptr() != view.data_ptr() for own, view in pairs)

    def _clip(self, work: Sequence[Any], stacked: Sequence[Tensor]) -> Tensor | None:
        """Return the factor for the gradients of sizes; None while no norms are known to compare with."""
        first = work[0][1][0]
        every = (parameter for group in self.param_groups for parameter in group["params"])
        keeper = next((p for p in every if "model_norms" in self.state.get(p, {})), first)
        state, step = self.state[keeper], int(self.state[keeper]["step"])
        if step == 0:
            return None  # as upstream: the first norm is not counted
        squares = [
            (gradient if parameters[0].numel() == 1 else gradient * _along(stack.param_rms, gradient)).square().sum()
            for (_, parameters, _, stack), gradient in zip(work, stacked, strict=True)
        ]
        norm = torch.stack(squares).sum().sqrt()
        period = self._clipping_period
        if "model_norms" not in state:
            state["model_norms"] = norm.new_zeros(period)
        state["model_norms"][step % period] = norm
        if step % period == 0:
            median = state["model_norms"].sort()[0][min(period - 1, period // 4 * 2)]
            state["model_norm_threshold"] = self._clipping_scale * median
        if "model_norm_threshold" not in state:
            return None
        factor: Tensor = (state["model_norm_threshold"] / (norm + 1e-20)).clamp(max=1.0)
        return factor


def _update(
    parameters: list[Tensor],
    gradient: Tensor,
    stack: _Stack,
    group: Mapping[str, Any],
    *,
    step: int,
    clip: Tensor | None,
) -> None:
    lr, (beta1, beta2), eps = group["lr"], group["betas"], group["eps"]
    weights = torch.stack(parameters) if len(parameters) > 1 else parameters[0][None]
    stack.delta.mul_(beta1)
    grads = (weights * gradient).flatten(1).sum(dim=1)
    stack.scale_grads[:, step % SIZE_PERIOD] = grads if clip is None else grads * clip
    if step % SIZE_PERIOD == SIZE_PERIOD - 1:
        stack.param_rms.copy_(weights.square().flatten(1).mean(dim=1).sqrt())
        change = _size_step(stack, lr=lr * SCALAR_LR_SCALE, beta2=beta2, eps=eps, step=step)
        stack.delta.addcmul_(weights, _along(change, weights), value=1 - beta1)

    stack.exp_avg_sq.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    denominator = stack.exp_avg_sq.sqrt()
    if (correction := 1 - beta2 ** (step + 1)) < CORRECTED_BELOW:
        denominator.mul_(correction**-0.5)
    direction = torch.div(gradient, denominator.add_(eps), out=denominator)
    pace = stack.param_rms.clamp(min=MIN_RMS).mul_(-lr * (1 - beta1))
    stack.delta.add_(direction.mul_(_along(pace, direction)))
    _move(parameters, stack.delta, shrink=lr * group["weight_decay"])


def _size_step(stack: _Stack, *, lr: float, beta2: float, eps: float, step: int) -> Tensor:
    """Return by which share (k,) each tensor is to grow."""
    beta2 = beta2**SIZE_PERIOD
    stack.scale_exp_avg_sq.mul_(beta2).add_(stack.scale_grads.square().mean(dim=1), alpha=1 - beta2)
    correction = 1 - beta2 ** ((step + 1) // SIZE_PERIOD)
    change = -lr * correction**0.5 * stack.scale_grads.sum(dim=1) / (stack.scale_exp_avg_sq.sqrt() + eps)
    change = torch.where(stack.param_rms < MIN_RMS, 0.0, change)
    return torch.where(stack.param_rms > MAX_RMS, -lr * SIZE_PERIOD, change)


def _update_scalars(
    parameters: list[Tensor], gradient: Tensor, stack: _Stack, group: Mapping[str, Any], *, step: int
) -> None:
    """Tensors of one value have no size apart from themselves: plain Adam without the first moment's correction."""
    lr, (beta1, beta2), eps = group["lr"] * SCALAR_LR_SCALE, group["betas"], group["eps"]
    stack.exp_avg_sq.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    denominator = (stack.exp_avg_sq / (1 - beta2 ** (step + 1))).sqrt() + eps
    stack.delta.mul_(beta1).addcdiv_(gradient, denominator, value=-lr * (1 - beta1))
    torch._foreach_clamp_min_(parameters, -SCALAR_MAX)
    torch._foreach_clamp_max_(parameters, SCALAR_MAX)
    _move(parameters, stack.delta, shrink=lr * group["weight_decay"])


def _move(parameters: list[Tensor], delta: Tensor, *, shrink: float) -> None:
    if shrink:
        torch._foreach_mul_(parameters, 1 - shrink)
    torch._foreach_add_(parameters, list(delta.unbind(0)))


def _along(values: Tensor, like: Tensor) -> Tensor:
    """Give one value (k,) per tensor the dimensions of the stacked tensors."""
    return values.view(-1, *[1] * (like.ndim - 1))
