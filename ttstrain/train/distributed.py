"""Data parallelism: sums over ranks, exchange of objects, failures of other ranks. Rank 0 writes files and prints.

Gradients are summed once per step (`sums`), since every loss is already divided by the weight of the whole global
batch. This works for any number of optimizers and losses, GANs included, and unlike
DistributedDataParallel it needs no wrapped forward. Every rank then makes the same update, bit for bit: at every
checkpoint the ranks compare checksums of all weights and buffers. Each rank draws its own noise, so a run on two ranks
gives other numbers than a run on one, although it reads the same clips.

Before each exchange of objects the ranks meet in a barrier, where a rank that has failed announces it: while a run is
prepared, no rank waits for one that is gone. During training, a lost connection shows that a rank has failed.
"""

from __future__ import annotations

import importlib
import os
import platform
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store

from ttstrain.errors import OutOfMemoryError, PeerError, RecipeError, first_line, is_out_of_memory
from ttstrain.tensors.sharded import held, num_parts
from ttstrain.train.checksum import checksums
from ttstrain.train.launched import attempt, check_environment, end_with_launcher, has_agent_store, launched

T = TypeVar("T")

WAIT = timedelta(hours=6)  # rank 0 may prepare hours of data while the others wait
ALIKE = 1e-4  # relative difference of a norm: more than GPUs of two kinds make of equal weights between checkpoints
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")  # gloo has no class for it


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process's rank, and operations over all ranks."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_size: int = 1  # processes on this machine

    @property
    def main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.world_size == 1

    def connect(self, device: torch.device) -> None:
        """Connect the GPUs while their memory is free.

        NCCL would otherwise connect in the first sum of gradients, when torch holds nearly all memory; out of memory
        there would be an error of one rank, and the others would hang.
        """
        if device.type == "cuda":
            self.sum(torch.zeros((), device=device))

    # ------------------------------------------------------------ every step

    def sum(self, values: Tensor) -> Tensor:
        """Sum a small tensor over ranks, in place; one on the CPU does not wait for the device."""
        if not self.alone:
            with peers():
                dist.all_reduce(values)
        return values

    def all_fit(self, fits: bool) -> bool:
        """Return whether every rank's `fits` is true; all ranks call it."""
        if self.alone:
            return fits
        return self.sum(torch.tensor([not fits], dtype=torch.int64)).item() == 0  # on the host: no wait

    def begin_sum(self, values: Tensor) -> Callable[[], None]:
        """Begin to sum a tensor over ranks, in place; return what waits for the sum. All ranks begin in one order."""
        with peers():
            work = dist.all_reduce(values, async_op=True)

        def wait() -> None:
            with peers():
                work.wait()

        return wait

    # ------------------------------------------------------------ now and then

    def gather(self, value: T) -> list[T]:
        """Return every rank's value, in rank order, on every rank."""
        if self.alone:
            return [value]
        self.barrier()
        gathered: list[Any] = [None] * self.world_size
        with peers():
            dist.all_gather_object(gathered, value)
        return gathered

    def broadcast(self, value: T) -> T:
        """Return rank 0's value on every rank."""
        if self.alone:
            return value
        self.barrier()
        box = [value]
        with peers():
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def barrier(self) -> None:
        """Wait for every rank. Raises PeerError if one of them announces that it has failed."""
        failed = [code for code in self._exchange_exit_codes(0) if code]
        if failed:
            raise PeerError("another process of this run has failed", exit_code=failed[0], told=True)

    def announce_failure(self, exit_code: int) -> bool:
        """Make the others' next `barrier`, `gather` or `broadcast` raise PeerError.

        Returns whether this is the lowest rank of those that fail there: that one prints the reason. Not usable during
        training, when the others may be in `sum`.
        """
        codes = self._exchange_exit_codes(exit_code)
        return not any(codes[: self.rank])

    def _exchange_exit_codes(self, exit_code: int) -> list[int]:
        """Return every rank's exit code; 0 if it has not failed."""
        if self.alone:
            return [exit_code]
        codes = torch.zeros(self.world_size, dtype=torch.int64)
        codes[self.rank] = exit_code
        met: list[int] = self.sum(codes).tolist()
        return met

    def differ(self, tensors: Mapping[str, Tensor]) -> list[str]:
        """Return the names of tensors that differ between ranks. Cheap enough for every checkpoint.

        Bits are compared, or norms if the ranks' devices are of different kinds, whose rounding differs. Of sharded
        tensors, ranks that hold the same rows compare those.
        """
        if self.alone or not tensors:
            return []
        rows = {name: held(tensor) for name, tensor in tensors.items()}
        parts = torch.tensor([num_parts(tensor) for tensor in tensors.values()])
        unequal = self._unequal(checksums(rows.values()), parts, tolerance=0.0)
        if unequal.any() and len(set(self.gather(_kind_of(next(iter(rows.values())).device)))) > 1:
            unequal = self._unequal(_norms(rows.values()), parts, tolerance=ALIKE)
        return [name for name, differs in zip(tensors, unequal.tolist(), strict=True) if differs]

    def _unequal(self, measured: Tensor, parts: Tensor, *, tolerance: float) -> Tensor:
        """Tell which of this rank's measurements (tensors,), each of one of so many `parts`, differ between ranks."""
        every = torch.stack(self.gather(measured))  # (ranks, tensors)
        first = torch.arange(self.world_size)[:, None] % parts  # the first rank that holds the same rows
        alike = torch.isclose(every, every.gather(0, first), rtol=tolerance, atol=0.0, equal_nan=True)
        return ~alike.all(dim=0)


@torch.no_grad()
def _norms(tensors: Iterable[Tensor]) -> Tensor:
    return torch.tensor([float(torch.linalg.vector_norm(tensor.detach().double())) for tensor in tensors])


def _kind_of(device: torch.device) -> str:
    """Return a name of the hardware; devices with the same name compute the same bits."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


# ---------------------------------------------------------------- joining and leaving


def join() -> Ranks:
    """Join the process group that torchrun or `--nproc` set up in the environment; alone without one."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return Ranks()
    check_environment()
    end_with_launcher()
    if not dist.is_initialized():
        # torch's first optimizer step imports this module, whose functions keep the process group of that moment as a
        # default argument: the group could not be destroyed, and its threads would abort the process at exit. So
        # import it before there is a group.
        importlib.import_module("torch.distributed.nn.functional")
        # gloo for objects and numbers on the host, also if gradients use NCCL
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        try:
            with _ctrl_c_at_once():
                # of every attempt its own names: torch 2.11 would read the addresses of processes that are gone
                store = None if (agents := agent_store()) is None else PrefixStore(f"attempt/{attempt()}", agents)
                rank = int(os.environ["RANK"])
                dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=WAIT)
        except RuntimeError as error:
            address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            raise RecipeError(
                f"the {world_size} processes did not find each other at `{address}`: {error}",
                hint="check that the port is free and that every machine can reach it",
            ) from error
    return Ranks(
        rank=dist.get_rank(),
        world_size=world_size,
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
        local_size=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
    )


def agent_store() -> Store | None:
    """Connect to the store of the elastic agent that started this process; None without one."""
    if not has_agent_store():
        return None
    return connect(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))


def connect(address: str, port: int) -> Store:
    """Connect to a store that another process serves."""
    store: Store = dist.TCPStore(address, port, is_master=False, timeout=WAIT)  # type: ignore[attr-defined]
    return store


def leave() -> None:
    """Leave the process group, if one was joined."""
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def _ctrl_c_at_once() -> Iterator[None]:
    """Let Ctrl-C end the process while torch waits for other ranks: Python's handler would not run meanwhile."""
    former = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)


@contextmanager
def peers() -> Iterator[None]:
    """Raise PeerError if the connection to another process is lost, OutOfMemoryError if this one's memory is full."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):  # the others wait inside the exchange and end when this process does
            raise OutOfMemoryError(
                f"memory ran out while the processes of this run exchanged data: {first_line(error)}",
                hint="free GPU memory: a smaller `data.batch_frames`, or no other program on the GPU",
            ) from error
        if (lost := peer_error(error)) is None:
            raise
        raise lost from error


def peer_error(error: RuntimeError) -> PeerError | None:
    """Return the error to raise instead of torch's where the connection to another process is lost."""
    ended = any(text in str(error) for text in _LOST)
    if not ended and not isinstance(error, dist.DistError):
        return None
    # our launcher reports which process ended, and so does that process; torchrun may be on another machine
    return PeerError(f"lost the other processes of this run: {error}", told=ended and launched())
