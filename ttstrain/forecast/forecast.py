"""What is forecast of a run, and what it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ttstrain.forecast import timeline
from ttstrain.forecast.costs import Costs
from ttstrain.layout import labelled
from ttstrain.plan.plan import Plan
from ttstrain.plan.render import shown_bytes
from ttstrain.tracking.console import duration
from ttstrain.train import spent

BUSY = 0.7  # share of a core, below which a process on the CPU waits for others
WORTH_A_REASON = 0.1  # a difference in time
FILE = "forecast.json"  # in a run's folder: what was forecast, and what it took
_GROUPS: Mapping[str, tuple[str, ...]] = {  # title -> parts
    "start": (spent.START,),
    "steps": (spent.STEP, spent.FIRST_STEPS, spent.LOG),
    "samples and judge": (spent.SAMPLES,),
    "evaluation": (spent.EVALUATION,),
    "saving": (spent.SAVE, spent.HOLD),
    "the rest": (timeline.REST,),
}


@dataclass(frozen=True, slots=True)
class Taken:
    """Time, memory and disk of one session of a run, forecast or measured."""

    first_step_s: float  # from the start of the program
    total_s: float  # likewise, to the end
    cpu_s: float  # of the processor, to the end
    memory: int  # bytes, the most at any time
    on_gpu: bool
    disk: int  # bytes of the run's folder

    def to_json(self) -> dict[str, Any]:
        """Return the values as JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a session of a run will take, and where that is known from."""

    taken: Taken
    source: str  # in words
    parts: Mapping[str, float]  # title -> seconds
    checkpoints: int  # bytes of all that stay
    samples: int  # bytes
    cache: int  # bytes of features, beside the run's folder

    def to_json(self) -> dict[str, Any]:
        """Return the forecast as JSON values."""
        return asdict(self)


def forecast(plan: Plan, costs: Costs | None, *, from_step: int = 0) -> Forecast | None:
    """Return what a session will take; None where nothing was measured, or not all that it needs."""
    course = None if costs is None else timeline.follow(plan, costs, from_step=from_step)
    if course is None or costs is None:
        return None
    sizes = costs.sizes
    checkpoints = plan.num_checkpoints * sizes.checkpoint
    samples = max(0, course.samplings - (from_step == 0)) * sizes.samples
    parts = {title: sum(course.parts.get(part, 0.0) for part in group) for title, group in _GROUPS.items()}
    return Forecast(
        taken=Taken(
            first_step_s=course.first_step,
            total_s=course.total,
            cpu_s=course.cpu,
            memory=sizes.memory,
            on_gpu=sizes.on_gpu,
            disk=checkpoints + samples + sizes.rest,
        ),
        source=costs.title,
        parts=parts,
        checkpoints=checkpoints,
        samples=samples,
        cache=sizes.cache,
    )


def forecast_lines(found: Forecast | None) -> list[str]:
    """Return the forecast as lines of a plan; where there is none, what would make one."""
    if found is None:
        return labelled("time", "not known yet: `ttstrain plan RECIPE --trial` measures a few steps")
    taken = found.taken
    share = ", ".join(f"{title} {duration(seconds)}" for title, seconds in found.parts.items() if seconds >= 0.5)
    rest = taken.disk - found.checkpoints - found.samples
    whose = "of the GPU" if taken.on_gpu else "of this machine's memory, by this process"
    return [
        *labelled("forecast", f"from the {found.source}{_busy(taken)}"),
        *labelled("", f"{duration(taken.first_step_s)} to the first step, {duration(taken.total_s)} to the end"),
        *labelled("", share),
        *labelled("", f"{shown_bytes(taken.memory)} {whose}, at most"),
        *labelled(
            "",
            f"up to {shown_bytes(taken.disk)} of disk: checkpoints {shown_bytes(found.checkpoints)}, samples "
            f"{shown_bytes(found.samples)}, the rest {shown_bytes(rest)}; features in the cache "
            f"{shown_bytes(found.cache)}",
        ),
    ]


def _busy(taken: Taken) -> str:
    """Say where the processor was not there for the measuring process: its time then tells little about another day."""
    share = taken.cpu_s / taken.total_s if taken.total_s > 0 else 1.0
    if taken.on_gpu or share > BUSY:
        return ""
    return (
        f"; it had {100 * share:.0f} % of one core, as other programs were running: with a core for itself the run "
        f"takes about {duration(taken.cpu_s)}"
    )


def compared(found: Forecast, took: Taken) -> list[str]:
    """Say what was forecast of a complete session and what it took."""
    said = found.taken
    lines = [
        f"forecast, from the {found.source}:",
        f"  time {duration(said.total_s)}, took {duration(took.total_s)}{_off(took.total_s, said.total_s)}; first step "
        f"after {duration(said.first_step_s)}, took {duration(took.first_step_s)}",
        f"  memory {shown_bytes(said.memory)}, took {shown_bytes(took.memory)}{_off(took.memory, said.memory)}; "
        f"disk up to {shown_bytes(said.disk)}, took {shown_bytes(took.disk)}",
    ]
    if abs(took.total_s / said.total_s - 1) > WORTH_A_REASON:
        lines.append(
            f"  processor {duration(said.cpu_s)}, took {duration(took.cpu_s)}{_off(took.cpu_s, said.cpu_s)}: the rest "
            "of the time was waiting"
        )
    return lines


def _off(took: float, said: float) -> str:
    """Write by how much more or less was taken than forecast."""
    share = 100 * (took / said - 1) if said > 0 else 0.0
    return f" ({abs(share):.0f} % {'more' if share > 0 else 'less'})"
