"""Several processes, one step: what is summed over ranks, and who writes.

Gradients are summed once per step in flat buckets, after the last micro-batch, because every loss is already divided by
the weight of the whole global batch. That is data parallelism for any number of optimizers and losses, GANs included;
unlike DistributedDataParallel it needs no wrapped forward.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

BUCKET_BYTES = 64 * 2**20
WAIT = timedelta(hours=6)  # rank 0 may prepare hours of data while the others wait


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among its peers."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.world_size == 1

    def sum(self, values: Tensor) -> Tensor:
        """Sum a small tensor over ranks, in place."""
        if not self.alone:
            dist.all_reduce(values)
        return values

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Sum the gradients of these parameters over ranks, in place; a missing gradient counts as zero."""
        if self.alone:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            dist.all_reduce(flat)
            pieces = torch.split(flat, [gradient.numel() for gradient in bucket])
            summed = [piece.view_as(gradient) for piece, gradient in zip(pieces, bucket, strict=True)]
            torch._foreach_copy_(bucket, summed)

    def gather(self, value: T) -> list[T]:
        """Return every rank's value, in rank order, on every rank."""
        if self.alone:
            return [value]
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, value)
        return gathered

    def broadcast(self, value: T) -> T:
        """Return rank 0's value on every rank."""
        if self.alone:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def barrier(self) -> None:
        if not self.alone:
            dist.barrier()


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    buckets: list[list[Tensor]] = []
    size, kind = 0, None
    for tensor in tensors:
        length = tensor.numel() * tensor.element_size()
        if not buckets or size + length > BUCKET_BYTES or tensor.dtype != kind:
            buckets.append([])
            size, kind = 0, tensor.dtype
        buckets[-1].append(tensor)
        size += length
    return buckets


def local_rank() -> int:
    """Return this process's number on its machine, as the launcher says."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def join(device: torch.device | None = None) -> Ranks:
    """Join the process group that torchrun or `--nproc` set up in the environment; alone without one."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return Ranks()
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device is None or device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=WAIT)
    return Ranks(rank=dist.get_rank(), world_size=world_size, local_rank=local_rank())


def leave() -> None:
    """Leave the process group, if one was joined."""
    if dist.is_initialized():
        dist.destroy_process_group()
