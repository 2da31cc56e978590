"""A long run of a small net: its memory, file handles and threads must not grow with its steps."""

from __future__ import annotations

import itertools
import json
import signal
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reliability import small
from reliability.frame import Limits, Part, Row, Tally
from reliability.programs import Program
from ttstrain.train.inject import RECORD

STEPS = {"short": 120, "full": 20_000}
BOUND = 1.0  # MB of memory that a thousand steps may add
LOOK_S = {"short": 0.1, "full": 2.0}  # between two looks at the process
WARM = 0.25  # share of the steps after which growth counts: caches fill, and every kind of event has happened
SPARE = 2  # files or threads that a rare moment may add, such as a save while a sample is written
MORE = (
    *("sample.count=1", "guard.snapshot_every=50", "guard.window=20", "guard.max_rollbacks=1000"),
    *("tracking.wandb=offline", "tracking.tensorboard=true"),
)
FAULTS = ("nan_loss", "inf_grad", "disk_full", "spike")  # in turn
NAMES: dict[Literal["handles", "threads"], str] = {"handles": "open files", "threads": "threads"}


@dataclass(frozen=True)
class Look:
    """What the system says of a process at one moment."""

    step: int
    memory: float  # MB of its own: without what it shares with files
    helpers: float  # MB of the processes that it started, such as W&B's
    handles: int
    threads: int


@dataclass(frozen=True)
class Seen:
    """What was seen of a run, how far it came, what entered, and how it failed if it did."""

    looks: list[Look]
    steps: int
    faults: int  # that entered
    failure: str | None


def count(limits: Limits) -> Iterator[Row]:
    """Train, watch the process from outside, and compare the end of the run with its beginning."""
    seen = _train(limits)
    what = f"{seen.steps:,} steps with saves, evaluations, samples, requests and {seen.faults} injected faults"
    if limits.form == "full":  # a short run says nothing of a slope
        memory = Tally(what, f"memory grows by less than {BOUND:g} MB for each 1,000 steps")
        memory.add(seen.failure or _of_memory(seen.looks))
        yield memory.row
    for name, shown in NAMES.items():
        tally = Tally(what, f"no more {shown} at the end than after the beginning")
        tally.add(seen.failure or _of_count(name, seen.looks))
        yield tally.row


def _of_memory(looks: Sequence[Look]) -> str | None:
    slope = growth(looks)
    return None if slope < BOUND else f"{slope:.2f} MB for each 1,000 steps"


def growth(looks: Sequence[Look]) -> float:
    """Return the slope of memory over steps, in MB for each 1,000 steps, of the part of the run that is warm."""
    warm = [look for look in looks if look.step >= WARM * looks[-1].step]
    slope, _ = statistics.linear_regression([look.step / 1000 for look in warm], [look.memory for look in warm])
    return slope


def _of_count(name: Literal["handles", "threads"], looks: Sequence[Look]) -> str | None:
    """Compare a count in the two halves of the warm part. What leaks stays: it raises the least that is seen."""
    warm = [getattr(look, name) for look in looks if look.step >= WARM * looks[-1].step]
    first, last = warm[: len(warm) // 2], warm[len(warm) // 2 :]
    if not first:
        return f"it was looked at {len(looks)} times only"
    if min(last) <= statistics.median(first) and max(last) <= max(first) + SPARE:
        return None
    return f"{min(first)} to {max(first)} in the first half, {min(last)} to {max(last)} in the last"


def _train(limits: Limits) -> Seen:
    """Train until the last step or the limit of time, and look at the process all along."""
    steps = STEPS[limits.form]
    recipe, every = small.write_recipe(limits.scratch), max(50, steps // 40)
    bench = small.Bench(limits.scratch, recipe, limits.scratch / "none", limits.scratch, MORE)
    events = (f"{kind}.every={every}" for kind in ("eval", "sample", "checkpoint"))
    faults = [f"{kind}@{step}" for kind, step in zip(itertools.cycle(FAULTS), range(every // 2, steps, every))]
    inject = f"debug.inject={json.dumps(['oom@40', *faults])}"
    program = Program(*bench.settings("soak"), f"train.steps={steps}", *events, inject, cwd=limits.scratch)
    run, asked = bench.run("soak"), 0
    looks: list[Look] = []
    while program.runs and not limits.over:
        time.sleep(LOOK_S[limits.form])
        if (look := _look(program.pid, run)) is not None and look.step < steps:
            looks.append(look)
            asked = _ask(run, look.step, asked, every=max(60, steps // 20))
    if program.runs:
        program.send(signal.SIGTERM)
        program.wait()
        return Seen(looks, small.last_step(run), _entered(run), None)
    ended = program.wait()
    return Seen(looks, small.last_step(run), _entered(run), None if ended.code == 0 else ended.brief)


def _entered(run: Path) -> int:
    return len((run / RECORD).read_text(encoding="utf-8").splitlines())


def _ask(run: Path, step: int, asked: int, *, every: int) -> int:
    """Ask the run for a checkpoint and for a sample now and then, as `ttstrain watch` does."""
    if step // every == asked:
        return asked
    (run / "SAVE").touch()
    (run / "SAMPLE").write_text("A sentence in between.", encoding="utf-8")
    return step // every


def _look(pid: int, run: Path) -> Look | None:
    """Return None where the process has ended, or has not begun to train."""
    step = small.last_step(run)
    try:
        place = Path("/proc", str(pid))
        threads = list((place / "task").iterdir())
        children = [child for thread in threads for child in (thread / "children").read_text().split()]
        handles = len(list((place / "fd").iterdir()))
        look = Look(step, _own_memory(pid), sum(_own_memory(int(child)) for child in children), handles, len(threads))
    except OSError:
        return None
    return look if step > 0 else None


def _own_memory(pid: int) -> float:
    lines = Path("/proc", str(pid), "smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) / 1000


PART = Part(
    title="A long run",
    method="A try is one run of a small flow net, with W&B offline and TensorBoard, watched from outside: memory of "
    "its own, open files and threads as the system counts them, over the last three quarters of its steps.",
    count=count,
    minutes=60,
    by_name=True,
)
