"""Where the time of a run goes, part by part: by the clock, and of the processor."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

START: Final = "start"  # from the start of the program to the loop
FIRST_STEPS: Final = "first steps"  # the first of a session take longer
STEP: Final = "step"
LOG: Final = "log"
EVALUATION: Final = "evaluation"
SAMPLES: Final = "samples"  # a whole sampling step; the next three are parts of it
GENERATE: Final = "generate"  # one sentence
LISTEN: Final = "listen"  # the judge's, one utterance
OPEN_EARS: Final = "open ears"  # what the judge does once
SAVE: Final = "save"
HOLD: Final = "hold"  # a snapshot for a rollback
NUM_FIRST = 2

_IMPORTED = time.perf_counter()


@dataclass(slots=True)
class Amount:
    """What one part of a run took."""

    times: int = 0
    wall: float = 0.0  # seconds
    cpu: float = 0.0  # seconds of the processor, of this process
    frames: int = 0  # of steps, padding included


@dataclass(slots=True)
class Spent:
    """Adds up what each part of this session takes."""

    parts: dict[str, Amount] = field(default_factory=dict)
    first_step: float | None = None  # seconds from the start of the program to the first step

    def of(self, part: str) -> Amount:
        """Return the amount of a part; of one that never happened, an empty one."""
        return self.parts.setdefault(part, Amount())

    @contextmanager
    def on(self, part: str, *, times: int = 1) -> Iterator[None]:
        """Count the time of this block to a part, also where it ends by an error."""
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.add(part, wall=time.perf_counter() - wall, cpu=time.process_time() - cpu, times=times)

    def add(self, part: str, *, wall: float, cpu: float, times: int = 1) -> None:
        """Count so many seconds to a part."""
        amount = self.of(part)
        amount.times += times
        amount.wall += wall
        amount.cpu += cpu

    def move(self, part: str, to: str, *, wall: float, cpu: float) -> None:
        """Count so many seconds of a part to another one."""
        if wall > 0:
            self.add(part, wall=-wall, cpu=-cpu, times=0)
            self.add(to, wall=wall, cpu=cpu)

    @contextmanager
    def on_step(self) -> Iterator[None]:
        """Count the time of this block to the steps; the first few of a session are counted apart."""
        if self.first_step is None:
            self.first_step = since_start()
        with self.on(self._steps):
            yield

    def count_frames(self, frames: int) -> None:
        """Count the frames, padding included, of the step that was counted last."""
        kind = FIRST_STEPS if self.of(STEP).times == 0 else STEP
        self.of(kind).frames += frames

    @property
    def _steps(self) -> str:
        return FIRST_STEPS if self.of(FIRST_STEPS).times < NUM_FIRST else STEP

    def begin(self) -> None:
        """Count all that this process did so far to the start."""
        self.add(START, wall=since_start(), cpu=time.process_time())


def since_start() -> float:
    """Return the seconds since this process began; where the system does not tell, since this module was imported."""
    try:
        after_name = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
        began = int(after_name.split()[19]) / os.sysconf("SC_CLK_TCK")  # seconds after the machine's start
        return time.clock_gettime(time.CLOCK_BOOTTIME) - began
    except (OSError, ValueError, IndexError, AttributeError):
        return time.perf_counter() - _IMPORTED
