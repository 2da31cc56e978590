"""Micro-batches that one thread loads ahead of the step: it collates them and copies them to the GPU.

The copies run on a stream of their own, beside what the step computes.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ttstrain.contract.data import Batch
from ttstrain.data.pool import StalledError, Threads, given_up
from ttstrain.errors import is_out_of_memory
from ttstrain.warning_listener import kept_back

FEWEST_AHEAD = 2  # micro-batches
NAME = "loads-ahead"  # of the thread


@dataclass(frozen=True, slots=True)
class Loaded:
    """A micro-batch in its pieces, and what was warned of while it was loaded."""

    batches: list[Batch]
    warnings: Sequence[str] = ()
    arrived: torch.cuda.Event | None = None  # where it was copied to a GPU


@dataclass(frozen=True, slots=True)
class Load:
    """What loads a micro-batch, in whichever thread it is called."""

    clips: list[str]
    make: Callable[[], Loaded]


def made_here(loads: Iterator[Load]) -> Generator[Loaded, None, None]:
    """Yield what each of an endless row of loads makes, as `Ahead.load` does, without a thread."""
    for load in loads:
        yield _result(load, load.make)


class Courier:
    """Takes batches to a GPU. A thread sends them, and the training thread receives them."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def send(self, load: Load) -> Loaded:
        """Load a micro-batch and begin to copy it."""
        with torch.cuda.stream(self._stream):  # makes this thread use the device, too
            loaded = load.make()
            batches = [self._copied(pinned(batch)) for batch in loaded.batches]
            return dataclasses.replace(loaded, batches=batches, arrived=self._stream.record_event())

    def receive(self, loaded: Loaded) -> None:
        """Let what the GPU does from now on begin when the copies are complete; the host does not wait."""
        now = torch.cuda.current_stream(self._device)
        if loaded.arrived is not None:
            now.wait_event(loaded.arrived)
        for tensor in _tensors(loaded.batches):
            if tensor.is_cuda:
                tensor.record_stream(now)  # or its memory would be used again while the step still reads it

    def _copied(self, batch: Batch) -> Batch:
        if not dataclasses.is_dataclass(batch):  # its tensors could not be found again
            return batch
        try:
            return batch.to(self._device)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        return batch  # the step copies it, and makes smaller pieces where that does not fit


class Ahead:
    """Loads micro-batches in their order, some of them in advance, and brings them to the device if that is a GPU."""

    def __init__(self, device: torch.device | None) -> None:
        self.depth = FEWEST_AHEAD  # micro-batches in advance, beside those of the present step
        self._courier = Courier(device) if device is not None and device.type == "cuda" else None
        self._thread: Threads | None = None

    def load(self, loads: Iterator[Load]) -> Generator[Loaded, None, None]:
        """Yield what each of an endless row of loads makes. Raises what it raised, and DataError where it hangs."""
        waiting: deque[tuple[Load, Future[Loaded]]] = deque()
        thread = self._thread = self._thread or Threads(1, thread_name_prefix=NAME)
        try:
            while True:
                while len(waiting) <= self.depth:
                    load = next(loads)
                    waiting.append((load, thread.submit(self._make, load)))
                load, future = waiting.popleft()
                loaded = _result(load, partial(thread.result, future))
                if self._courier is not None:
                    self._courier.receive(loaded)
                yield loaded
        finally:
            for _, future in waiting:
                future.cancel()

    def close(self) -> None:
        """End the thread; loading starts another one."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
        self._thread = None

    def _make(self, load: Load) -> Loaded:
        with kept_back() as warnings:
            loaded = load.make() if self._courier is None else self._courier.send(load)
        return dataclasses.replace(loaded, warnings=[*loaded.warnings, *warnings])


def _result(load: Load, get: Callable[[], Loaded]) -> Loaded:
    try:
        return get()
    except StalledError as error:  # loading it in the training process would hang that, too
        raise given_up(load.clips, "loaded") from error


def pinned(batch: Any) -> Any:
    """Move a batch's host tensors to pinned memory, so that copies to the GPU are asynchronous."""
    if not dataclasses.is_dataclass(batch) or isinstance(batch, type):
        return batch
    moved = {
        field.name: value.pin_memory()
        for field in dataclasses.fields(batch)
        if isinstance(value := getattr(batch, field.name), Tensor) and value.device.type == "cpu"
    }
    return dataclasses.replace(batch, **moved)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _tensors(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)
