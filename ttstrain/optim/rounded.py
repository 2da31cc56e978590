"""AdamW for bf16 weights, with stochastic rounding, and for optimizer state that lies in the host's memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ttstrain.tensors.host_copy import zeros_on_host
from ttstrain.tensors.sharded import first_row, held, is_sharded

PIECE = 1 << 24  # values that are computed at a time: some six copies of them in fp32
_KEPT_BITS = -(1 << 16)  # of a float32, those that bf16 has


class RoundedAdamW(torch.optim.Optimizer):
    """AdamW computed in fp32, with fp32 optimizer state, that rounds bf16 weights stochastically.

    A bf16 number has 8 significant bits, so that most updates at a small LR are less than half a step and nearest
    rounding drops them. Rounding up with the probability of the remainder keeps them on average (Gupta et al.,
    arXiv 1502.02551). Weights in fp32 are updated exactly.

    With `offload` the state stays in the host's memory, page-locked for weights on a GPU, and each piece of it is on
    their device only while it is updated; the numbers are the same. A step then ends once its last piece is back.

    The random numbers depend only on `seed`, the parameter's name and its count of updates: all processes of a run
    round equally and keep the same weights, and a resumed run rounds like an uninterrupted one.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, eps: float, seed: int, offload: bool = False) -> None:
        """Take groups with `params`, their `names`, `lr`, `betas` and `weight_decay`."""
        super().__init__(groups, {"eps": eps})
        self._seed = seed
        self._offload = offload
        self._generators: dict[torch.device, torch.Generator] = {}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        self._update()
        if self._offload:  # what is held is read by the host: by snapshots and checkpoints
            on_gpus = (p.device for group in self.param_groups for p in group["params"] if p.is_cuda)
            for device in dict.fromkeys(on_gpus):
                torch.cuda.synchronize(device)

    def _update(self) -> None:
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for name, parameter in zip(group["names"], group["params"], strict=True):
                if parameter.grad is None:
                    continue
                state = self._state(parameter)
                state["step"] += 1
                step = state["step"].item()  # on the host: no wait
                generator = self._generator(parameter, name, step=int(step))
                tensors = (parameter, parameter.grad, state["exp_avg"], state["exp_avg_sq"])
                for draw, (weights, slope, *held_state) in _pieces(tensors):
                    mean, square = (self._fetched(held, weights.device) for held in held_state)
                    gradient = slope.float()
                    mean.lerp_(gradient, 1 - beta1)
                    square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
                    scale = square.sqrt().div_((1 - beta2**step) ** 0.5).add_(group["eps"])
                    updated = weights.float().mul_(1 - group["lr"] * group["weight_decay"])
                    updated.addcdiv_(mean, scale, value=-group["lr"] / (1 - beta1**step))
                    if weights.dtype == torch.bfloat16:
                        updated = round_stochastically(updated, generator, draw)
                    weights.copy_(updated)
                    if self._offload:
                        for own, new in zip(held_state, (mean, square), strict=True):
                            own.copy_(new, non_blocking=True)

    def _fetched(self, own: Tensor, device: torch.device) -> Tensor:
        """Return a piece of the state where it is updated: itself, or a copy of what the host holds."""
        return own.to(device, non_blocking=True, copy=True) if self._offload else own

    def _state(self, parameter: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())  # own count: a group that was frozen for a while starts late
            for name in ("exp_avg", "exp_avg_sq"):
                if self._offload:
                    state[name] = zeros_on_host(parameter, dtype=torch.float32)
                else:
                    state[name] = torch.zeros_like(parameter, dtype=torch.float32)
        return state

    def _generator(self, parameter: Tensor, name: str, *, step: int) -> torch.Generator:
        device = parameter.device
        if device not in self._generators:
            self._generators[device] = torch.Generator(device)
        return self._generators[device].manual_seed(_seed_of(self._seed, name, step))


@dataclass(frozen=True, slots=True)
class Draw:
    """Which rows of a draw of random numbers are for a piece: a process that holds some rows draws for all."""

    shape: tuple[int, ...]
    rows: slice


def _pieces(tensors: Sequence[Tensor]) -> Iterator[tuple[Draw | None, Sequence[Tensor]]]:
    """Cut tensors of one shape alike along their first dimension: views of at most `PIECE` values, or of one row.

    Of sharded tensors, the rows that this process holds, cut where all processes cut: what a piece draws for its rows
    does not depend on who holds them.
    """
    first = tensors[0]
    if not is_sharded(first):
        if first.numel() <= PIECE:
            return iter([(None, tensors)])
        rows = max(1, PIECE * len(first) // first.numel())
        return ((None, piece) for piece in zip(*(torch.split(tensor, rows) for tensor in tensors), strict=True))
    rows = len(first) if first.numel() <= PIECE else max(1, PIECE * len(first) // first.numel())
    return _held_pieces(first, [held(tensor) for tensor in tensors], rows=rows)


def _held_pieces(whole: Tensor, held: Sequence[Tensor], *, rows: int) -> Iterator[tuple[Draw, Sequence[Tensor]]]:
    start = first_row(whole)
    end = start + len(held[0])
    for piece in range(0, len(whole), rows):
        stop = min(piece + rows, len(whole))
        low, high = max(piece, start), max(piece, start, min(stop, end))
        draw = Draw((stop - piece, *whole.shape[1:]), slice(low - piece, high - piece))
        yield draw, [tensor[low - start : high - start] for tensor in held]


def round_stochastically(values: Tensor, generator: torch.Generator, draw: Draw | None = None) -> Tensor:
    """Return fp32 values as bf16: the neighbour below or above, each the likelier the nearer."""
    bits = values.view(torch.int32)
    shape = values.shape if draw is None else draw.shape
    noise = torch.randint(1 << 16, shape, dtype=torch.int32, device=values.device, generator=generator)
    if draw is not None:
        noise = noise[draw.rows]
    return ((bits + noise) & _KEPT_BITS).view(torch.float32).to(torch.bfloat16)


def _seed_of(seed: int, name: str, step: int) -> int:
    """Mix what chance depends on into 32 bits, which is what torch's generator of the CPU reads of a seed."""
    digest = hashlib.blake2b(f"{seed} {name} {step}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little")
