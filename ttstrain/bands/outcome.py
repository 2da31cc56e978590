"""`band.json` in a run's folder: which reference runs it is compared with, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ttstrain import documents
from ttstrain.bands.compare import Place
from ttstrain.bands.facts import Facts, read_facts
from ttstrain.data import atomic
from ttstrain.errors import CheckpointError

FILE_NAME = "band.json"
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run beside the reference runs of its recipe."""

    recipe: str
    facts: Facts  # of the run
    why_not: str = ""  # why it cannot be compared
    place: Place | None = None  # None until it has been compared
    step: int = 0  # up to which it was compared
    sentences: Sequence[str] = ()  # for people: the first says where it lies, the others the likely causes

    @property
    def open(self) -> bool:
        """Whether the run is still to be compared."""
        return not self.why_not and self.place is None


def write_outcome(run: Path, outcome: Outcome) -> None:
    """Write the outcome into a run's folder."""
    document = {"schema": SCHEMA, **asdict(outcome)}
    atomic.write_text(run / FILE_NAME, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def read_outcome(run: Path) -> Outcome | None:
    """Read a run's outcome; None for a run whose recipe has no band. Raises CheckpointError where it is damaged."""
    path = run / FILE_NAME
    if not path.is_file():
        return None
    found = documents.read_object(path, error=CheckpointError, keys={"schema": int, "recipe": str, "facts": dict})
    try:
        if found["schema"] != SCHEMA:
            raise ValueError(f"schema {found['schema']}; this ttstrain reads schema {SCHEMA}")
        return Outcome(
            recipe=found["recipe"],
            facts=read_facts(found["facts"]),
            why_not=str(found["why_not"]),
            place=found["place"],
            step=int(found["step"]),
            sentences=tuple(map(str, found["sentences"])),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"`{path}` cannot be read: {error}") from error
