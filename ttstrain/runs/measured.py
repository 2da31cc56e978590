"""What a session of a run took: kept for the next plan on this machine, and compared with what was forecast."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch

from ttstrain.checkpoint import pointers
from ttstrain.data import atomic
from ttstrain.errors import first_line
from ttstrain.forecast import ledger, timeline
from ttstrain.forecast.costs import Costs, Sizes, Source
from ttstrain.forecast.forecast import FILE, Forecast, Taken, compared, forecast
from ttstrain.runs.assemble import Ready
from ttstrain.runs.disk import size_of
from ttstrain.train import spent
from ttstrain.train.run import Run
from ttstrain.train.spent import since_start

_TOP = (spent.START, spent.FIRST_STEPS, spent.STEP, spent.LOG, spent.EVALUATION, spent.SAMPLES, spent.SAVE, spent.HOLD)


@dataclass(slots=True)
class Foreseen:
    """What was forecast before a session, if anything was."""

    forecast: Forecast | None


def foresee(ready: Ready) -> Foreseen:
    """Forecast what this session will take, from the latest trial or run of this recipe on this machine."""
    run = ready.run
    if not run.ranks.main:
        return Foreseen(None)
    return Foreseen(forecast(run.plan, ledger.look_up(run.plan), from_step=run.progress.step))


def look_back(ready: Ready, foreseen: Foreseen, *, ending: str) -> None:
    """Keep what a session took, and say how it compares with the forecast where it went to its planned end."""
    run = ready.run
    if not run.ranks.main or run.spent.first_step is None:
        return
    took = take_stock(run)
    keep_costs(ready, took, source="run")
    said = foreseen.forecast
    document = {"ending": ending, "forecast": None if said is None else said.to_json(), "took": took.to_json()}
    try:
        atomic.write_text(run.folder / FILE, json.dumps(document, indent=1) + "\n")
    except OSError as error:
        run.trackers.note(f"`{FILE}` is not written: {first_line(error)}")
    if said is not None and ending == "done":
        for line in compared(said, took):
            run.trackers.note(line)


def keep_costs(ready: Ready, took: Taken, *, source: Source) -> None:
    """Keep the costs of a session for later plans; where that fails, a note says so."""
    run = ready.run
    try:
        ledger.keep(run.plan, costs_of(ready, took, source=source, name=run.folder.name))
    except OSError as error:
        run.trackers.note(f"what this run took is not kept for later plans: {first_line(error)}")


def take_stock(run: Run) -> Taken:
    """Measure what this session has taken up to now."""
    return Taken(
        first_step_s=run.spent.first_step or 0.0,
        total_s=since_start(),
        cpu_s=time.process_time(),
        memory=peak_memory(run.device),
        on_gpu=run.device.type == "cuda",
        disk=size_of(run.folder),
    )


def costs_of(ready: Ready, took: Taken, *, source: Source, name: str) -> Costs:
    """Return the costs of a session that ends here."""
    run = ready.run
    parts = dict(run.spent.parts)
    if source == "run":
        steps = sum(parts[part].times for part in (spent.FIRST_STEPS, spent.STEP) if part in parts)
        known = [parts[part] for part in _TOP if part in parts]
        rest = spent.Amount(
            times=max(1, steps),
            wall=max(0.0, took.total_s - sum(part.wall for part in known)),
            cpu=max(0.0, took.cpu_s - sum(part.cpu for part in known)),
        )
        parts[timeline.REST] = rest
    return Costs(
        source=source,
        name=name,
        made=datetime.now().astimezone().isoformat(timespec="seconds"),
        sizes=_sizes(ready, took),
        parts=parts,
    )


def _sizes(ready: Ready, took: Taken) -> Sizes:
    run = ready.run
    checkpoints = pointers.list_checkpoints(run.store.root)
    samplings = sorted((run.folder / "samples").glob("step-*"))
    later = [size_of(folder) for folder in samplings if folder.name != f"step-{0:08d}"]
    prepared = ready.prepared
    features = (prepared.cache.path(clip) for clip in [*prepared.train, *prepared.held_out, *prepared.replay])
    return Sizes(
        memory=took.memory,
        on_gpu=took.on_gpu,
        checkpoint=max(map(size_of, checkpoints), default=0),
        samples=round(sum(later) / len(later)) if later else 0,
        rest=took.disk - sum(map(size_of, checkpoints)) - sum(later),
        cache=sum(path.stat().st_size for path in features if path.is_file()),
    )


def peak_memory(device: torch.device) -> int:
    """Return the most bytes taken so far: of a GPU by torch's allocator, else of the machine by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return 0
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
