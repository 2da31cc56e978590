"""What happened to a run at a step: incidents, warnings, checkpoints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ttstrain import documents
from ttstrain.checkpoint import pointers
from ttstrain.errors import CheckpointError, DataError
from ttstrain.tracking.jsonl import WARNINGS

MOST_EVENTS = 300  # of each kind on the page; the rest is counted
MAX_WARNINGS = 16 * documents.MEBIBYTE


@dataclass(frozen=True, slots=True)
class Event:
    """Something that is marked on the curves."""

    step: int
    kind: str  # what was done, or `warning`
    text: str


@dataclass(frozen=True, slots=True)
class Events:
    """A run's incidents and warnings, in order of steps."""

    incidents: Sequence[Event] = ()
    warnings: Sequence[Event] = ()
    counts: Mapping[str, int] | None = None  # of all incidents, by what was done
    left_out: int = 0  # incidents and warnings that are not listed


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The steps whose checkpoints are on disk."""

    steps: Sequence[int] = ()
    best: int | None = None
    last: int | None = None


def read_events(run: Path) -> Events:
    """Read a run's incidents and warnings; what is damaged is left out and counted."""
    files = sorted((run / "incidents").glob("*.json"))
    incidents, damaged = [], 0
    for file in files:
        try:
            incidents.append(_incident(documents.read_object(file, error=DataError, keys=_IN_INCIDENT, numbers="any")))
        except DataError:
            damaged += 1
    warnings = list(_warnings(run / WARNINGS))
    left_out = damaged + sum(max(0, len(found) - MOST_EVENTS) for found in (incidents, warnings))
    return Events(
        incidents=sorted(incidents, key=lambda event: event.step)[-MOST_EVENTS:],
        warnings=warnings[-MOST_EVENTS:],
        counts=dict(Counter(event.kind for event in incidents)),
        left_out=left_out,
    )


_IN_INCIDENT: dict[str, type] = {"step": int, "kind": str, "action": str}
_Level = Literal["loss", "grad_norm"]
_TITLES: tuple[tuple[_Level, str], ...] = (("loss", "loss"), ("grad_norm", "gradient norm"))


def _incident(values: Mapping[str, Any]) -> Event:
    pieces = [values["kind"].replace("_", " ")]
    for key, title in _TITLES:
        value = values.get(key)
        if isinstance(value, int | float):
            pieces.append(f"{title} {value:.4g}")
        elif isinstance(value, str):  # NaN and infinity
            pieces.append(f"{title} {value}")
    if clips := _texts(values.get("clips")):
        more = f" and {len(clips) - 3} more" if len(clips) > 3 else ""
        pieces.append(f"clips {', '.join(clips[:3])}{more}")
    pieces += _texts(values.get("notes"))
    if values.get("restored_step") is not None:
        pieces.append(f"back to step {values['restored_step']}")
    return Event(values["step"] + 1, values["action"].replace("_", " "), "; ".join(pieces))


def _texts(values: Any) -> list[str]:
    return [str(value) for value in values] if isinstance(values, list) else []


def _warnings(path: Path) -> Iterator[Event]:
    if not path.is_file():
        return
    try:
        content = documents.read_bytes(path, error=DataError, most_bytes=MAX_WARNINGS)
    except DataError as error:
        yield Event(0, "warning", error.message)
        return
    for line in content.splitlines():
        try:
            values = documents.check_object(documents.parse(line), {"step": int, "warning": str})
        except documents.DocumentError:  # a torn line
            continue
        yield Event(values["step"], "warning", values["warning"])


def read_checkpoints(run: Path) -> Checkpoints:
    """List a run's complete checkpoints."""
    root = run / pointers.CHECKPOINTS
    try:
        steps = [pointers.step_of(folder) for folder in pointers.list_checkpoints(root)]
    except (OSError, CheckpointError):
        return Checkpoints()
    named = {name: pointers.pointed(root, name) for name in (pointers.BEST, pointers.LAST)}
    numbers = {name: None if found is None else pointers.step_of(root / found) for name, found in named.items()}
    return Checkpoints(steps, best=numbers[pointers.BEST], last=numbers[pointers.LAST])
