"""Where the time of a few steps goes: a trace of torch's profiler, and a summary of one screen."""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from ttstrain.data import atomic
from ttstrain.errors import first_line
from ttstrain.layout import labelled

FIRST = 3  # steps of a session that are left out: they allocate memory, choose kernels and compile
FOLDER, TRACE, SUMMARY = "profile", "trace.json.gz", "summary.txt"
MOST_OPERATIONS = 8
LEAST = 0.0005  # of the time: less is not shown

STEP = "profiled step"
DATA, FORWARD, BACKWARD, UPDATE = "wait for data", "forward", "backward", "update"
PHASES: Mapping[str, str] = {  # start of the name of an enclosing range -> what the step does there
    DATA: DATA,
    "autograd::engine::evaluate_function": BACKWARD,
    "Optimizer.step": UPDATE,
}
KINDS: Sequence[tuple[str, tuple[str, ...]]] = (  # the first kind with a part of the operation's name
    ("attention", ("scaled_dot_product", "flash", "efficient_attention", "flex_attention")),
    ("convolutions", ("conv", "cudnn_rnn")),
    ("matrix products", ("mm", "linear", "matmul", "einsum", "bmm")),
    ("normalisation", ("norm",)),
    ("exchange between processes", ("c10d", "nccl", "gloo", "all_reduce", "broadcast_")),
    ("waits for the device", ("_local_scalar_dense", "Synchronize", "item")),
    ("random numbers", ("rand", "normal_", "bernoulli", "dropout")),
    ("copies and indexing", ("copy", "clone", "cat", "index", "gather", "scatter", "embedding", "contiguous", "fill")),
)
OTHER = "element by element, and others"


class Event(Protocol):
    """What is used of a torch FunctionEvent. Times are in microseconds."""

    name: str
    device_type: DeviceType
    cpu_parent: Any
    time_range: Any  # `start` and `end`
    self_cpu_time_total: float
    self_device_time_total: float


@dataclass(frozen=True, slots=True)
class Summary:
    """Seconds of the profiled steps, by what they were spent on."""

    steps: int
    wall: float
    on_device: bool  # the seconds are a GPU's; else the processor's, in operations of torch
    phases: Mapping[str, float]
    kinds: Mapping[str, float]
    operations: Mapping[str, float]

    @property
    def measured(self) -> float:
        return sum(self.phases.values())

    def lines(self, *, first: int) -> list[str]:
        """Lay the summary out in 80 columns; `first` is the first profiled step."""
        last = first + self.steps - 1
        named = f"step {first:,}" if self.steps == 1 else f"steps {first:,} to {last:,}"
        where = "the GPU" if self.on_device else "the processor"
        said = labelled("profile", f"{named}: {self.wall / self.steps:.3g} s a step, profiling included, by {where}")
        said += _shares("", self.phases, of=self.wall)
        rest = "the GPU does nothing" if self.on_device else "Python, and what torch does not record"
        said += _shares("", {rest: max(self.wall - self.measured, 0.0)}, of=self.wall)
        said += _shares("work", self.kinds, of=self.measured)
        longest = sorted(self.operations.items(), key=lambda one: -one[1])[:MOST_OPERATIONS]
        return said + _shares("longest", dict(longest), of=self.measured)


def summarize(events: Iterable[Event], *, steps: int, wall: float) -> Summary:
    """Add up the profiled steps as `add_up` does; events between them, as those of an evaluation, are left out."""
    events = list(events)
    inside = sorted(_interval(event) for event in events if event.name == STEP and event.device_type == DeviceType.CPU)
    within = (event for event in events if event.name != STEP and _within(event.time_range.start, inside))
    return add_up(within, steps=steps, wall=wall)


def add_up(events: Iterable[Event], *, steps: int, wall: float) -> Summary:
    """Add up the own time of every event by phase, by kind of work and by operation, in seconds.

    Events on a GPU, kernels among them, are left out: the operations that started the kernels have their time.
    """
    events = [event for event in events if event.device_type == DeviceType.CPU]
    on_device = any(event.self_device_time_total > 0 for event in events)
    phases: dict[str, float] = dict.fromkeys((DATA, FORWARD, BACKWARD, UPDATE), 0.0)
    kinds: dict[str, float] = defaultdict(float)
    operations: dict[str, float] = defaultdict(float)
    for event in events:
        seconds = (event.self_device_time_total if on_device else event.self_cpu_time_total) / 1e6
        phase = _phase(event)
        phases[phase] += seconds
        if phase != DATA:
            kinds[_kind(event.name)] += seconds
            operations[event.name] += seconds
    return Summary(steps, wall, on_device, phases, dict(sorted(kinds.items(), key=lambda one: -one[1])), operations)


def _interval(event: Event) -> tuple[float, float]:
    return event.time_range.start, event.time_range.end


def _within(at: float, ranges: Sequence[tuple[float, float]]) -> bool:
    """Tell whether a time lies in one of the ranges, which follow one another."""
    place = bisect_right(ranges, (at, math.inf)) - 1
    return place >= 0 and at <= ranges[place][1]


def _phase(event: Event) -> str:
    at: Any = event
    while at is not None:
        for start, phase in PHASES.items():
            if at.name.startswith(start):
                return phase
        at = at.cpu_parent
    return FORWARD


def _kind(name: str) -> str:
    return next((kind for kind, parts in KINDS if any(part in name for part in parts)), OTHER)


def _shares(label: str, seconds: Mapping[str, float], *, of: float) -> list[str]:
    rows = [(name, 100 * value / of) for name, value in seconds.items() if of > 0 and value >= LEAST * of]
    return [
        f"{label if number == 0 else '':10}{share:5.1f} %  {name[:62]}" for number, (name, share) in enumerate(rows)
    ]


# ---------------------------------------------------------------- in a run


class StepProfiler:
    """Profiles the steps of a session after its first ones, and writes what it found into the run's folder."""

    def __init__(self, steps: int, *, folder: Path, device: torch.device, say: Callable[[str], None]) -> None:
        self._steps = steps
        self._folder = folder / FOLDER
        self._device = device
        self._say = say
        self._taken = 0
        self._wall = 0.0
        self._first = 0
        self._profile: profile | None = None

    @contextmanager
    def on_step(self, step: int) -> Iterator[None]:
        """Profile the block if it is one of the steps that are wanted; `step` is its number in the run."""
        if self._taken < FIRST or self._taken >= FIRST + self._steps:
            yield
            self._taken += 1
            return
        if self._profile is None:
            self._first = step
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it complains where there is no GPU
            self._profile = profile(activities=self._activities(), acc_events=True)
            self._profile.start()
        began = perf_counter()
        try:
            with record_function(STEP):
                yield
                self._wait()
        finally:
            self._taken += 1
            self._wall += perf_counter() - began
            if self._taken == FIRST + self._steps:
                self._write()

    def close(self) -> None:
        """Write what there is of a session that ended before all steps were taken."""
        if self._profile is not None:
            self._write()

    def _activities(self) -> list[ProfilerActivity]:
        gpu = [ProfilerActivity.CUDA] if self._device.type == "cuda" else []
        return [ProfilerActivity.CPU, *gpu]

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # the kernels of this step belong to it

    def _write(self) -> None:
        assert self._profile is not None
        found, self._profile = self._profile, None
        found.stop()
        steps = min(self._taken - FIRST, self._steps)
        events: Any = found.events()  # type: ignore[no-untyped-call]
        lines = summarize(events, steps=steps, wall=self._wall).lines(first=self._first)
        try:
            self._folder.mkdir(exist_ok=True)
            atomic.write_text(self._folder / SUMMARY, "\n".join(lines) + "\n")
            found.export_chrome_trace(str(self._folder / TRACE))
            last = labelled("", f"the trace for Perfetto or chrome://tracing is `{self._folder / TRACE}`")
        except (OSError, RuntimeError) as error:  # the run goes on; torch raises RuntimeError where it cannot write
            last = [f"WARNING: the profile could not be written into `{self._folder}`: {first_line(error)}"]
        for line in [*lines, *last]:
            self._say(line)


@contextmanager
def waiting_for_data() -> Iterator[None]:
    """Mark the block in a profile as the wait for data."""
    with record_function(DATA):
        yield
