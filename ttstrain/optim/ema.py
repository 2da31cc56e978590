"""EMA: an exponential moving average of a module's weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ttstrain.errors import CheckpointError
from ttstrain.tensors.sharded import cut, held, is_sharded, joint

_SMALLEST_NORM = 1e-12
_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class _Slot:
    """Where a tensor of the module lives. Looked up each time: loading and moving may replace the tensor."""

    owner: nn.Module
    attribute: str

    def tensor(self) -> Tensor:
        found = getattr(self.owner, self.attribute)
        assert isinstance(found, Tensor)
        return found.detach()

    def put(self, data: Tensor) -> None:
        tensor = getattr(self.owner, self.attribute)
        assert isinstance(tensor, Tensor)
        if is_sharded(tensor):  # FSDP2 gathers from this memory
            held(tensor).copy_(held(data))
        else:
            tensor.data = data


class Ema:
    """EMA of everything in a module's state dict; integers are copied. A `Stateful`: its state is the EMA weights.

    The decay depends only on the step, so resetting the step restarts EMA warm-up. EMA weights of half-precision
    weights are fp32, because half precision would round small changes away. A parameter that is frozen when the EMA is
    made takes no memory: its EMA is the parameter itself.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        decay: float,
        start_step: int,
        every: int,
        decay_at: Callable[[int], float] | None = None,
    ) -> None:
        """Start from a copy of the weights. `decay_at` replaces the formula of `Ema.decay_at`."""
        self._module = module
        self._decay = decay
        self._start_step = start_step
        self._every = every
        self._own_decay_at = decay_at
        self._names = _names(module)
        self._shapes = {  # of the whole, and of the rows that this process holds
            name: (tensor.shape, held(tensor).shape)
            for name, tensor in module.state_dict().items()
            if name in self._names
        }
        self._frozen = _frozen(module, self._names)
        self._own_slots = self._find_slots(module)
        self._left_out: frozenset[str] = frozenset()
        self._average: dict[str, Tensor] = {}  # one per tensor that may move, under the first of its names
        self.reset(module)

    def decay_at(self, step: int) -> float:
        """Return the decay of the update at `step`; 0 up to `start_step`.

        Warms up as min(decay, (1 + n) / (10 + n)) over the n steps since then, the formula of TensorFlow's
        ExponentialMovingAverage, and is compounded over the `every` steps that an update stands for.
        """
        if self._own_decay_at is not None:
            return self._own_decay_at(step)
        n = step - self._start_step
        return 0.0 if n <= 0 else min(self._decay, (1 + n) / (10 + n)) ** self._every

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the EMA after `step` finished updates; does nothing unless `step` is a multiple of `every`."""
        if step > self._start_step and step % self._every:
            return
        decay = self.decay_at(step)
        if decay == 0.0:
            self.reset(self._module)
        else:
            self._move(1.0 - decay)

    @torch.no_grad()
    def reset(self, module: nn.Module) -> None:
        """Reset the EMA to a copy of the module's weights."""
        for name, slot in self._slots(module).items():
            weights = slot.tensor()
            if name in self._average:
                self._average[name].copy_(weights)
            else:
                self._average[name] = weights.to(_dtype(weights), copy=True, memory_format=torch.preserve_format)

    @torch.no_grad()
    def distance(self, module: nn.Module) -> Tensor:
        """Return ||EMA - weights|| / ||weights|| over all floating-point tensors, on their device.

        Weights that are held in 4 bits, of which the module has an outline only, do not count.
        """
        none = held(next(iter(module.parameters()))).new_zeros((), dtype=torch.float32)
        measured: list[Tensor] = []
        gaps, sizes = [], []
        for name, slot in self._slots(module).items():
            average, weights = self._average[name], slot.tensor()
            if average.is_floating_point():  # one at a time: no second copy of the model
                measured.append(weights)
                gaps.append(torch.linalg.vector_norm(held(average) - held(weights)))
                sizes.append(torch.linalg.vector_norm(held(weights), dtype=average.dtype))
        gap: Tensor = torch.linalg.vector_norm(joint(torch.stack([none, *gaps]), [none, *measured]))
        for weights in (slot.tensor() for slot in self._frozen_slots(module).values()):
            if not weights.is_meta:
                measured.append(weights)
                sizes.append(torch.linalg.vector_norm(held(weights), dtype=torch.float32))
        size: Tensor = torch.linalg.vector_norm(joint(torch.stack(sizes), measured))
        return gap / size.clamp_min(_SMALLEST_NORM)

    @contextmanager
    def swapped_in(self, module: nn.Module) -> Iterator[None]:
        """Run a block with EMA weights in the module; restores the raw weights afterwards. Do not train inside."""
        slots = self._slots(module)
        before = {name: slot.tensor() for name, slot in slots.items()}
        before = {name: tensor.clone() if is_sharded(tensor) else tensor for name, tensor in before.items()}
        try:
            for name, slot in slots.items():
                slot.put(self._average[name].to(before[name].dtype))
            yield
        finally:
            for name, slot in slots.items():
                slot.put(before[name])

    def leave_out(self, names: Collection[str]) -> None:
        """Leave the EMA weights of these frozen parameters, which are the parameters, out of the state from now on."""
        self._left_out = frozenset(names)

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Return the live EMA weights by state-dict key; tied weights are one tensor under two names."""
        live = self._average | {name: slot.tensor() for name, slot in self._frozen_slots(self._module).items()}
        kept = {name: first for name, first in self._names.items() if not self._stays(name, first)}
        return {"weights": {name: live[first] for name, first in kept.items()}}

    def _stays(self, name: str, first: str) -> bool:
        return name in self._left_out and first in self._frozen

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        """Restore the EMA weights. Raises CheckpointError, before it changes anything, unless every tensor fits."""
        own = self._frozen_slots(self._module)
        stay = {name: own[first].tensor() for name, first in self._names.items() if self._stays(name, first)}
        weights: Mapping[str, Tensor] = {**stay, **state_dict["weights"]}
        misfits = [name for name in {**self._names, **weights} if not self._fits(name, weights)]
        if misfits:
            raise CheckpointError(
                f"the EMA weights do not fit the model: {len(misfits)} tensors differ, such as `{misfits[0]}`",
                hint="were they saved from another model?",
            )
        with torch.no_grad():
            for name, slot in self._frozen_slots(self._module).items():
                rows = held(slot.tensor())
                moved = not rows.is_meta and not torch.equal(rows, cut(weights[name], slot.tensor()).to(rows))
                if moved:  # frozen after the EMA was made
                    self._frozen.remove(name)
                    self._average[name] = torch.empty_like(slot.tensor(), dtype=_dtype(slot.tensor()))
            self._own_slots = self._find_slots(self._module)
            for name, average in self._average.items():
                held(average).copy_(cut(weights[name], average))

    def _fits(self, name: str, weights: Mapping[str, Tensor]) -> bool:
        return name in self._shapes and name in weights and weights[name].shape in self._shapes[name]

    def _slots(self, module: nn.Module) -> dict[str, _Slot]:
        """Map each tensor's first name to its place in `module`, which must have the same structure."""
        return self._own_slots if module is self._module else self._find_slots(module)

    def _find_slots(self, module: nn.Module) -> dict[str, _Slot]:
        names = dict.fromkeys(self._names.values())
        return {name: _slot(module, name) for name in names if name not in self._frozen}

    def _frozen_slots(self, module: nn.Module) -> dict[str, _Slot]:
        return {name: _slot(module, name) for name in self._names if name in self._frozen}

    def _move(self, weight: float) -> None:
        averages: list[Tensor] = []
        targets: list[Tensor] = []
        for name, slot in self._own_slots.items():
            average, weights = self._average[name], slot.tensor()
            if average.is_floating_point():
                averages.append(held(average))
                targets.append(held(weights).to(average.dtype))
            else:
                average.copy_(weights)
        torch._foreach_lerp_(averages, targets, weight)


def _names(module: nn.Module) -> dict[str, str]:
    """Map every state-dict key to the first key of the same tensor."""
    first: dict[int, str] = {}
    return {
        name: first.setdefault(id(tensor), name)
        for name, tensor in module.state_dict(keep_vars=True).items()
        if isinstance(tensor, Tensor)  # modules may add extra state of their own
    }


def _frozen(module: nn.Module, names: Mapping[str, str]) -> set[str]:
    """Return the first names of the parameters that are not trained."""
    frozen = {id(parameter) for parameter in module.parameters() if not parameter.requires_grad}
    tensors = module.state_dict(keep_vars=True)
    return {name for name in names.values() if id(tensors[name]) in frozen}


def _slot(module: nn.Module, name: str) -> _Slot:
    path, _, attribute = name.rpartition(".")
    return _Slot(module.get_submodule(path), attribute)


def _dtype(weights: Tensor) -> torch.dtype:
    return torch.float32 if weights.dtype in _HALF else weights.dtype
