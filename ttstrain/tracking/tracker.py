"""Trackers watch a run and tell someone about it; they never steer it, and never end it.

The engine calls them on rank 0 only. Keys of `log` are `place/kind/name` and mean the same everywhere: in
`metrics.jsonl`, in W&B and in TensorBoard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ttstrain.errors import UserError
from ttstrain.warning_listener import Listener
from ttstrain.weights import Weights

if TYPE_CHECKING:
    from ttstrain.contract.task import Sample


WARNING = "WARNING: "  # how a note begins that is a warning
SpokenBy = Literal[Weights, "base"]  # the weights that spoke


@dataclass(frozen=True, slots=True)
class Spoken:
    """What one set of weights made of a preview's sentence."""

    path: Path  # of its sound; a picture of its mel lies beside it
    seconds: float
    sample: Sample | None = None  # None where it was spoken at an earlier step
    mel_distance: float | None = None  # to the recording, where there is one
    duration_ratio: float | None = None  # to the recording's length
    numbers: Mapping[str, float] = field(default_factory=dict)  # as `Sample.numbers`


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
    measured_since: int = 0  # evaluations up to this step, where it is not 0, do not compare with later ones


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

    def sample(self, step: int, name: str, text: str, spoken: Mapping[SpokenBy, Spoken]) -> None:
        """Record one preview's sentence as the weights, their average and the base speak it; its files are written."""
        ...

    def incident(self, step: int, kind: str, message: str) -> None:
        """Record that the guard stepped in; `kind` is one word, such as `skipped` or `rollback`."""
        ...

    def note(self, message: str) -> None:
        """Record something a person may want to know, such as where a checkpoint went."""
        ...

    def warn(self, message: str, *, shown: bool = False) -> None:
        """Record what may be wrong and stops nothing; `shown` where it was on the screen before the run began.

        May be called before `start`: a screen shows it then, and what is written later is told again, as `shown`.
        """
        ...

    def finish(self, status: str) -> None:
        """Close everything; `status` is a word or two: `done`, `early stop`, `stopped`, `preempted`, `failed` ..."""
        ...


class Trackers(list[Tracker]):
    """Tells every tracker, in order; `finish` goes backwards, so that the first to open is the last to close.

    A tracker never ends a run. What one raises is told to the others, once, and it is called again the next time: a
    disk that was full may have room by then. One that cannot start is left out, unless it raises a UserError: nothing
    is lost yet, and the user can act on it.
    """

    def __init__(self, trackers: Iterable[Tracker] = ()) -> None:
        super().__init__(trackers)
        self._told: set[int] = set()  # trackers whose failure is known
        self._early: list[str] | None = []  # warnings from before the start; None once it has been
        self._listener = Listener(self.warn)

    def listen(self) -> None:
        """Hear from now on, until `finish`, what any module of ttstrain warns of with `logging`."""
        self._listener.begin()

    def start(self, info: RunInfo) -> None:
        for tracker in list(self):
            try:
                tracker.start(info)
            except UserError:
                raise
            except Exception as error:
                self.remove(tracker)
                self._tell(tracker, error, "it is left out of this run")
        early, self._early = self._early or [], None
        for message in early:
            self._each(partial(_warn_again, message))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._each(lambda tracker: tracker.log(step, values))

    def sample(self, step: int, name: str, text: str, spoken: Mapping[SpokenBy, Spoken]) -> None:
        self._each(lambda tracker: tracker.sample(step, name, text, spoken))

    def incident(self, step: int, kind: str, message: str) -> None:
        self._each(lambda tracker: tracker.incident(step, kind, message))

    def note(self, message: str) -> None:
        """Tell a note; one that begins with `WARNING: ` is a warning."""
        if message.startswith(WARNING):
            self.warn(message.removeprefix(WARNING))
        else:
            self._each(lambda tracker: tracker.note(message))

    def warn(self, message: str, *, shown: bool = False) -> None:
        if self._early is not None:
            self._early.append(message)
        self._each(lambda tracker: tracker.warn(message, shown=shown))

    def finish(self, status: str) -> None:
        self._listener.end()
        self._each(lambda tracker: tracker.finish(status), backwards=True)

    def _each(self, call: Callable[[Tracker], None], *, backwards: bool = False) -> None:
        for tracker in list(reversed(self) if backwards else self):
            try:
                call(tracker)
            except Exception as error:
                self._tell(tracker, error, "training goes on, and what it should have recorded is missing")

    def _tell(self, failed: Tracker, error: Exception, what_follows: str) -> None:
        if id(failed) in self._told:
            return
        self._told.add(id(failed))
        name = type(failed).__name__.removesuffix("Tracker")
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        for tracker in self:
            if tracker is not failed:
                with suppress(Exception):
                    tracker.warn(f"{name} failed ({reason}): {what_follows}")


def _warn_again(message: str, tracker: Tracker) -> None:
    tracker.warn(message, shown=True)
