"""What a run or a trial took, part by part, as it is kept on this machine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

from ttstrain import documents
from ttstrain.errors import DataError
from ttstrain.train import spent
from ttstrain.train.spent import Amount

VERSION = 1
Source = Literal["trial", "run"]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes that a run or a trial took."""

    memory: int  # the most at any time
    on_gpu: bool  # of the GPU, by torch's allocator; else of this process, on the machine
    checkpoint: int  # one, on disk
    samples: int  # of one sampling step after the first
    rest: int  # of the run's folder: page, metrics, trackers' files
    cache: int  # features of the clips


@dataclass(frozen=True, slots=True)
class Costs:
    """What each part took, how often it happened, and what was taken of memory and disk."""

    source: Source
    name: str  # of the run, or of the recipe that was tried
    made: str  # time, ISO 8601
    sizes: Sizes
    parts: Mapping[str, Amount] = field(default_factory=dict)  # as `ttstrain.train.spent` names them

    @property
    def steps(self) -> int:
        """The steps that were measured."""
        return sum(self.of(part).times for part in (spent.FIRST_STEPS, spent.STEP))

    def of(self, part: str) -> Amount:
        """Return the amount of a part; of one that was not measured, an empty one."""
        return self.parts.get(part, Amount())

    @property
    def title(self) -> str:
        """Where the costs come from, in words."""
        when = datetime.fromisoformat(self.made).strftime("%d %b %H:%M").lstrip("0")
        if self.source == "trial":
            return f"trial of {self.steps} steps, {when}"
        return f"last run on this machine, {self.name}, {when}"

    def to_json(self) -> dict[str, Any]:
        """Return the costs as JSON values."""
        return {"version": VERSION, **asdict(self)}


def of_json(values: Any) -> Costs:
    """Read costs back. Raises DataError for anything that `Costs.to_json` did not write."""
    try:
        documents.check_object(values, {"version": int, "source": str, "name": str, "made": str})
        parts = documents.check_object(values, {"parts": dict, "sizes": dict})
        if values["version"] != VERSION or values["source"] not in ("trial", "run"):
            raise documents.DocumentError("it is of another version")
        datetime.fromisoformat(values["made"])
        sizes = documents.check_object(parts["sizes"], {**dict.fromkeys(_SIZES, int), "on_gpu": bool})
        found = {str(name): _amount(amount) for name, amount in parts["parts"].items()}
        return Costs(values["source"], values["name"], values["made"], Sizes(**sizes), found)
    except (documents.DocumentError, TypeError, ValueError) as error:
        raise DataError(f"these are no costs of a run: {error}") from error


_SIZES = ("memory", "checkpoint", "samples", "rest", "cache")


def _amount(values: Any) -> Amount:
    read = documents.check_object(values, {"times": int, "wall": float, "cpu": float, "frames": int})
    amount = Amount(**read)
    if amount.times < 0 or not all(math.isfinite(number) for number in (amount.wall, amount.cpu)):
        raise documents.DocumentError("an amount is not a number")
    return amount
