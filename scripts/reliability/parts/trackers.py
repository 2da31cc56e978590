"""A tracker that fails must cost a run nothing: no step, no line of metrics.jsonl, and little time at its end."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from reliability import small, wandb_server
from reliability.frame import Limits, Part, Row, Tally
from reliability.programs import Program
from reliability.small import Bench
from reliability.wandb_server import Mood

STEPS = {"short": 60, "full": 300}
TIMES = {"INIT_TIMEOUT_S": 5.0, "FINISH_TIMEOUT_S": 6.0, "ANSWER_S": 6.0, "LEAVE_S": 3.0}
"""The tracker's own limits in seconds, shortened from a minute, so that a try ends soon."""
AT_THE_END_S = TIMES["FINISH_TIMEOUT_S"] + 3 * TIMES["LEAVE_S"] + 20  # of a busy machine
GUARANTEE = "no step and no line of metrics.jsonl is lost, and the run ends in time"


def count(limits: Limits) -> Iterator[Row]:
    steps = STEPS[limits.form]
    bench = small.make_bench(limits.scratch, f"train.steps={steps}", "checkpoint.every=100", "eval.every=100")
    for name, mood in MOODS.items():
        for when, at in (("from the start", 0), ("in the middle", steps // 3)):
            if limits.form == "full" and not limits.over:
                tally = Tally(f"a W&B server that {name}, {when}", GUARANTEE)
                tally.add(_with_server(bench, mood, at, steps))
                yield tally.row
    for name, harm in HARMS.items():
        if limits.form == "full" or harm is kill_service:
            for mode in ("offline",) if limits.form == "short" or limits.over else ("online", "offline"):
                tally = Tally(f"{name}, {mode}", GUARANTEE)
                tally.add(_with_service(bench, harm, mode, steps))
                yield tally.row


@dataclass(frozen=True)
class Try:
    """One run with W&B."""

    bench: Bench
    name: str
    steps: int
    mode: str  # of W&B
    at: int  # the step at which it is harmed; 0: before it begins


def _with_server(bench: Bench, mood: Mood | None, at: int, steps: int) -> str | None:
    """Train with a server that changes its mood; None: that ends."""
    with wandb_server.serving("good" if at or mood is None else mood) as server:

        def change(_: Program | None = None) -> None:
            if mood is None:
                server.shutdown()
                server.server_close()
            else:
                server.mood = mood

        if not at:
            change()
        return _tried(Try(bench, f"{mood}-{at}", steps, "online", at), server, change)


def _with_service(bench: Bench, harm: Callable[[int], None], mode: str, steps: int) -> str | None:
    def harm_all(program: Program) -> None:
        services = _services(program.pid)
        if not services:
            raise RuntimeError("W&B runs no service")
        for service in services:
            harm(service)

    with wandb_server.serving("good") as server:
        return _tried(Try(bench, f"{harm.__name__}-{mode}", steps, mode, steps // 3), server, harm_all)


def _tried(one: Try, server: wandb_server.Server, harm: Callable[[Program], None]) -> str | None:
    """Train with W&B, harm it at a step, and compare the run with the one that had no tracker."""
    home = one.bench.folder / "home"
    home.mkdir(exist_ok=True)
    environment = {**os.environ, **server.environment, "WANDB_MODE": one.mode, "HOME": str(home)}
    place = one.bench.run(one.name)
    words = (*one.bench.settings(one.name), f"tracking.wandb={one.mode}")
    program = Program(*words, cwd=one.bench.folder, plant=hurried, environment=environment)
    if one.at and program.wait_for(lambda: small.last_step(place) >= one.at):
        harm(program)
    program.wait_for(lambda: small.last_step(place) >= one.steps)
    trained = time.monotonic()
    ended = program.wait()
    took = time.monotonic() - trained
    if ended.code != 0:
        return ended.brief
    if took > AT_THE_END_S:
        return f"it ended {took:.0f} s after its last step"
    return small.differs(place, one.bench.whole)


def hurried() -> None:
    """Shorten the time limits of the tracker in this process."""
    from ttstrain.tracking import wandb

    for name, seconds in TIMES.items():
        setattr(wandb, name, seconds)


def _services(parent: int) -> list[int]:
    """Return the process ids of the `wandb-core` that a process started."""
    children = [
        child for task in Path(f"/proc/{parent}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return [int(child) for child in children if b"wandb-core" in Path(f"/proc/{child}/cmdline").read_bytes()]


def kill_service(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def freeze_service(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def fill_disk(pid: int) -> None:
    """Let the service write no further byte to any file: each write fails, as on a full disk."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, 1))


MOODS: dict[str, Mood | None] = {
    "refuses connections": None,
    "drops every connection": "drops",
    "stalls": "stalls",
    "lies": "lies",
    "answers 500": "fails",
    "answers 403": "forbids",
    "answers 429": "limits",
}
HARMS = {
    "a killed wandb-core": kill_service,
    "a frozen wandb-core": freeze_service,
    "a full disk of wandb-core": fill_disk,
}

PART = Part(
    title="Trackers never hurt",
    method=f"A try is a run of {STEPS['full']} steps with W&B against a server on this machine; W&B's time limits are "
    "shortened to seconds. It has survived when the numbers of every step and the last checkpoint equal those of a run "
    f"without a tracker, bit for bit, and the process ended within {AT_THE_END_S:g} s of its last step.",
    count=count,
    minutes=8,
)
