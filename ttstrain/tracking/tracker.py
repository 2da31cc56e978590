"""Trackers watch a run and tell someone about it; they never steer it.

The engine calls them on rank 0 only. Keys of `log` are `place/kind/name` and mean the same everywhere: in
`metrics.jsonl`, in W&B and in TensorBoard.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ttstrain.task import Sample


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What is known about a run when its first step is about to be taken."""

    name: str
    run_dir: Path
    run_id: str  # stays the same over resumes: letters, digits, `-` and `_`
    resumed: bool  # steps up to `start_step` were recorded in `run_dir` before
    recipe: Mapping[str, Any]  # resolved, JSON values only
    plan_summary: tuple[str, ...]  # lines to show before training, may be empty
    total_steps: int
    start_step: int  # updates already done
    steps_per_epoch: float


class Tracker(Protocol):
    """Receives what happens in a run, in order."""

    def start(self, info: RunInfo) -> None:
        """Open what is written to; called once, before anything else."""
        ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers of the update that made `step` updates complete.

        May be called again for the same step with other keys, as when an evaluation follows it. After a rollback,
        steps repeat.
        """
        ...

    def sample(self, step: int, name: str, sample: Sample, text: str, path: Path) -> None:
        """Record one spoken sample; its audio is already in the file at `path`."""
        ...

    def incident(self, step: int, kind: str, message: str) -> None:
        """Record that the guard stepped in; `kind` is one word, such as `skipped` or `rollback`."""
        ...

    def note(self, message: str) -> None:
        """Record something a person may want to know, such as where a checkpoint went."""
        ...

    def finish(self, status: str) -> None:
        """Close everything; `status` is a word or two: `done`, `early stop`, `stopped`, `preempted`, `failed` ..."""
        ...


class Trackers(list[Tracker]):
    """Tells every tracker, in order; `finish` goes backwards, so that the first to open is the last to close."""

    def start(self, info: RunInfo) -> None:
        for tracker in self:
            tracker.start(info)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for tracker in self:
            tracker.log(step, values)

    def sample(self, step: int, name: str, sample: Sample, text: str, path: Path) -> None:
        for tracker in self:
            tracker.sample(step, name, sample, text, path)

    def incident(self, step: int, kind: str, message: str) -> None:
        for tracker in self:
            tracker.incident(step, kind, message)

    def note(self, message: str) -> None:
        for tracker in self:
            tracker.note(message)

    def finish(self, status: str) -> None:
        for tracker in reversed(self):
            tracker.finish(status)
