"""Sharding by torch's FSDP2: each process holds some rows of every parameter, its gradient and its optimizer state.

The blocks that a task names are gathered one at a time, when their forward and their backward need them. All other
parameters of the task are gathered together, for the whole of a loss: tasks use those in many ways beside a forward.
So the module whose forward FSDP2 sees is not the task: it is `_Root`, whose forward computes the task's next loss.

Losses are already divided by the weight of the whole global batch; so gradients are summed over processes, not
averaged. Each backward pass reduces what it has computed, and FSDP2 adds that to the rows of the gradient.

FSDP2 wants the same gradients on every process, or what it exchanges does not match. A parameter that a process does
not use in a loss has a gradient of zeros there (`_Touched`); one that no process uses has none, as in a run that
shards nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from ttstrain.contract.task import HasBlocks, Loss, Task
from ttstrain.tensors.sharded import is_sharded
from ttstrain.train.distributed import Ranks

REPLICATE, SHARD = "replicate", "shard"  # dimensions of the mesh


class Shards:
    """The units of a sharded task, and what a step does with them."""

    def __init__(self, task: Task, *, device: torch.device, ranks: Ranks, degree: int) -> None:
        """Shard a task's parameters over groups of `degree` processes; each group holds them once.

        Every process must hold equal weights before. Optimizers are made of the parameters as they are afterwards;
        call `begin` when it is decided which of them are trained.
        """
        self._ranks = ranks
        self._root = _Root(task)
        self._leaves: dict[Tensor, Tensor] = {}  # a parameter -> what autograd sees of it
        self._used: set[Tensor] = set()  # in this step, by this process
        self._whole = 0
        self._forwards = 0  # of units, in this step, by this process
        blocks = task.repeated_blocks() if isinstance(task, HasBlocks) else ()
        copies = ranks.world_size // degree
        shape, names = ((copies, degree), (REPLICATE, SHARD)) if copies > 1 else ((degree,), (SHARD,))
        mesh = init_device_mesh(device.type, shape, mesh_dim_names=names)
        policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
        for module in (*blocks, self._root):
            fully_shard(module, mesh=mesh, mp_policy=policy)
        self._blocks = [block for block in blocks if isinstance(block, FSDPModule)]
        self._units = [module for module in self._root.modules() if isinstance(module, FSDPModule)]
        for unit in self._units:
            unit.set_gradient_divide_factor(1.0)
            unit.set_force_sum_reduction_for_comms(True)  # gloo has no other

    def begin(self) -> None:
        """Find what autograd sees of each parameter."""
        sharded = dict(self._root.named_parameters(remove_duplicate=False))
        self._root(iter(()))  # lets FSDP2 find its root
        self.rest()
        for unit in self._units:
            unit.unshard()
            leaves: list[Tensor] = []
            for name, leaf in self._root.named_parameters(remove_duplicate=False):
                if not is_sharded(leaf) and sharded[name] not in self._leaves:
                    self._leaves[sharded[name]] = leaf
                    leaves.append(leaf)
                    if leaf.requires_grad:
                        leaf.register_hook(_Noted(self._used, sharded[name]))  # type: ignore[no-untyped-call]
            unit.reshard()
            touch = _touching([leaf for leaf in leaves if leaf.requires_grad])
            unit.register_forward_hook(touch, prepend=True)
            unit.register_forward_hook(self._count)

    # ------------------------------------------------------------ a step

    def new_step(self) -> None:
        """Begin to note which parameters are used."""
        self._used.clear()
        self._forwards = 0

    def next(self, losses: Iterator[Loss]) -> Loss | None:
        """Compute the next loss of a micro-batch; None after the last."""
        value = self._root(losses)
        loss = self._root.take()
        return None if loss is None else replace(loss, value=value)

    def leaves(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Return what autograd accumulates gradients in, for these parameters."""
        return [self._leaves[parameter] for parameter in parameters]

    def finish_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Complete the gradients of an update: drop those of parameters that no process has used.

        Raises RuntimeError, on every process, where they have run different numbers of forwards: what they have
        gathered and summed then belongs to different blocks.
        """
        self.rest()
        own = [*(int(parameter in self._used) for parameter in parameters), self._forwards, self._forwards**2]
        *counts, forwards, squares = self._ranks.sum(torch.tensor(own, dtype=torch.int64)).tolist()
        if forwards**2 != squares * self._ranks.world_size:
            raise RuntimeError(
                f"this process ran {self._forwards} forwards of the task and its blocks in this step, and another "
                "process another number: with `train.parallel.shard`, all must run the same"
            )
        for parameter, count in zip(parameters, counts, strict=True):
            if not count:
                parameter.grad = None
        self._used.difference_update(parameters)

    def rest(self) -> None:
        """Free all that is gathered."""
        for unit in self._units:
            unit.reshard()

    # ------------------------------------------------------------ between steps

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Hold the whole model on every process inside; all of them enter and leave. No training inside.

        Processes may then compute different things, or nothing.
        """
        self._whole += 1
        if self._whole == 1:
            for block in self._blocks:
                block.set_reshard_after_forward(False, recurse=False)
            for unit in self._units:
                unit.unshard()
        try:
            yield
        finally:
            self._whole -= 1
            if not self._whole:
                for block in self._blocks:
                    block.set_reshard_after_forward(True, recurse=False)
                self._forget_order()
                self.rest()

    def _count(self, *_: Any) -> None:
        self._forwards += not self._whole

    def _forget_order(self) -> None:
        """Let FSDP2 forget the order of forwards, by which it gathers blocks in advance: processes may differ in it.

        It does so at the end of a backward pass.
        """
        with torch.enable_grad():
            start = torch.zeros((), requires_grad=True)
            loss = self.next(iter([Loss(start * 1.0)]))
            assert loss is not None
            torch.autograd.backward(loss.value, inputs=[start])


class _Root(nn.Module):
    """A module whose forward computes a task's next loss."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self._loss: Loss | None = None

    def forward(self, losses: Iterator[Loss]) -> Tensor | None:
        self._loss = next(losses, None)
        return None if self._loss is None else self._loss.value

    def take(self) -> Loss | None:
        """Return the loss of the last forward, and forget it."""
        loss, self._loss = self._loss, None
        return loss


def _touching(leaves: Sequence[Tensor]) -> Callable[..., Any]:
    """Make a forward hook that gives each of these parameters a gradient in a backward pass through the output."""

    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        if not torch.is_grad_enabled():
            return output
        if isinstance(output, tuple):
            return (hook(_module, _args, output[0]), *output[1:])
        if isinstance(output, Tensor) and output.requires_grad:
            return _Touched.apply(output, *leaves)  # type: ignore[no-untyped-call]
        return output

    return hook


class _Noted:
    """Notes that a parameter has a gradient that is not `_Touched`'s zeros alone."""

    def __init__(self, used: set[Tensor], parameter: Tensor) -> None:
        self._used = used
        self._parameter = parameter

    def __call__(self, gradient: Tensor) -> None:
        if not _Touched.made(gradient):
            self._used.add(self._parameter)


class _Touched(torch.autograd.Function):
    """Pass a tensor on, and back, beside its gradient, zeros for parameters: each of them has a gradient then."""

    _zeros: ClassVar[dict[tuple[torch.device, torch.dtype], Tensor]] = {}

    @classmethod
    def zeros(cls, like: Tensor) -> Tensor:
        """Return zeros without memory of their own."""
        key = (like.device, like.dtype)
        if key not in cls._zeros:
            cls._zeros[key] = torch.zeros((), device=like.device, dtype=like.dtype)
        return cls._zeros[key].expand(like.shape)

    @classmethod
    def made(cls, gradient: Tensor) -> bool:
        """Tell whether a gradient is these zeros and nothing else."""
        zero = cls._zeros.get((gradient.device, gradient.dtype))
        return zero is not None and zero.data_ptr() == gradient.data_ptr()

    @staticmethod
    def forward(context: Any, value: Tensor, *parameters: Tensor) -> Tensor:
        context.parameters = parameters
        return value.view_as(value)

    @staticmethod
    def backward(context: Any, *gradients: Any) -> Any:
        return gradients[0], *(_Touched.zeros(parameter) for parameter in context.parameters)
