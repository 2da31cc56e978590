"""The set-up that a new run and a resumed run share: building the run's objects, and describing it in its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ttstrain.bands.tracker import BandTracker
from ttstrain.data.audit import write_quarantine
from ttstrain.data.earlier import write_record
from ttstrain.data.manifest import write_manifest
from ttstrain.errors import CheckpointError
from ttstrain.judge import in_run
from ttstrain.modules.nf4 import bits_of
from ttstrain.plan.plan import Plan
from ttstrain.report.tracker import ReportTracker
from ttstrain.runs import folder, sessions
from ttstrain.runs.disk import check_disk
from ttstrain.runs.origin import Origin
from ttstrain.runs.processes import Processes
from ttstrain.tracking.build import build_trackers
from ttstrain.tracking.tracker import Trackers
from ttstrain.train import build
from ttstrain.train.prepare import Prepared
from ttstrain.train.run import Run

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, slots=True)
class Ready:
    """A run that is ready to train: its weights are loaded and its folder describes it."""

    run: Run
    prepared: Prepared
    notes: tuple[str, ...]  # for the user, before the first step
    origin: Origin | None = None  # what a resumed run continues from; None for a new run


def assemble(
    plan: Plan,
    prepared: Prepared,
    place: Path,
    device: torch.device,
    here: Processes,
    *,
    console: Console | None = None,
) -> Run:
    """Build the objects of a run in its folder. Raises RecipeError when its checkpoints do not fit on the disk.

    The run is shown on `console`, by default on stderr.
    """
    if here.ranks.main:
        check_disk(plan, place, machines=max(1, here.ranks.world_size // here.ranks.local_size))
    trackers = Trackers()
    if here.ranks.main:
        trackers = build_trackers(plan.recipe.tracking, origins=plan.origins, console=console)
        trackers.append(BandTracker(trackers))
        trackers.append(ReportTracker(note=trackers.note))
    judge = None
    if here.ranks.main and plan.sample_every is not None:
        judge = in_run.make(plan.recipe, [*prepared.held_out, *prepared.train], folder=place)
    return build.build(
        plan,
        prepared,
        folder=place,
        device=device,
        ranks=here.ranks,
        trackers=trackers,
        lock=here.lock,
        rescue=folder.create_rescue,
        listener=judge,
    )


def check_alike(run: Run) -> None:
    """Raise CheckpointError where the ranks have loaded different weights."""
    if differing := run.ranks.differ(bits_of(run.task)):
        raise CheckpointError(
            f"the processes would start from different weights: `{differing[0]}` differs",
            hint="check that every machine reads the same base file",
        )


def describe(run: Run, prepared: Prepared, origin: Origin | None = None) -> list[str]:
    """Write the run's recipe, plan, environment and clip lists into its folder; return notes for the user.

    Call it after every check that can refuse the run.
    """
    place = run.folder
    lines = []
    if run.ranks.main:
        goes_on_from = None if origin is None else origin.checkpoint
        lines += sessions.write_description(place, run.plan, goes_on_from=goes_on_from)
    run.ranks.barrier()
    if prepared.audited is None:
        return lines
    write_quarantine(prepared.audited.data, place / "data" / "quarantine.jsonl")
    write_manifest(place / "data" / "train.jsonl", prepared.train)
    write_manifest(place / "data" / "held_out.jsonl", prepared.held_out)
    if prepared.audited.replay is not None:
        write_quarantine(prepared.audited.replay, place / "data" / "replay_quarantine.jsonl")
        write_manifest(place / "data" / "replay.jsonl", prepared.replay)
        write_manifest(place / "data" / "replay_held_out.jsonl", prepared.retained)
    write_record(place, prepared.earlier, held_out=prepared.held_out, retained=prepared.retained)
    lines += [f"left out: {clip}: {why}" for clip, why in prepared.failed.items()]
    if skipped := sum(prepared.facts.skipped.values()):
        lines.append(f"{skipped} rows left out, see {place / 'data' / 'quarantine.jsonl'}")
    return lines
