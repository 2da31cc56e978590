"""Is this update safe to make? And if not: skip it, or go back to the last good state.

Judged before the optimizer steps, because one step with a non-finite gradient ruins the weights and the optimizer state
for good. Only finite losses enter the statistics, which are medians, so that outliers do not distort them.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

from ttstrain.data import atomic
from ttstrain.recipe.schema import GuardConfig

Judgement = Literal["good", "overflow", "non_finite_loss", "non_finite_gradient", "spike"]
Kind = Literal[Judgement, "out_of_memory", "non_finite_eval", "non_finite_state"]
Action = Literal["step", "skip", "rollback", "give up", "halve", "fall back", "exclude"]

NORMAL = 1.4826  # median absolute deviation -> standard deviation of a normal distribution
SMALLEST_SHARE = 0.01  # of the median: a loss that hardly varies must not turn noise into spikes
EXPLOSION = 3.0  # times the median: a batch of one odd clip reaches twice, and many deviations, without any harm
FEWEST = 8  # losses that say how high those of the steps after a snapshot may be


@dataclass(frozen=True, slots=True)
class UpdateVerdict:
    """What the guard says of one optimizer's update."""

    judgement: Judgement
    loss: float
    grad_norm: float

    @property
    def good(self) -> bool:
        return self.judgement == "good"


@dataclass(frozen=True, slots=True)
class Accused:
    """Clips of a batch that was refused twice on the same weights."""

    judgement: Judgement
    clips: Sequence[str]


@dataclass(frozen=True, slots=True)
class Incident:
    """What is written to `incidents/<step>-<kind>.json`."""

    step: int  # updates done before the one that was refused
    kind: Kind
    action: Action
    optimizer: str | None  # None where it concerns all, or none
    loss: float | None
    grad_norm: float | None
    lrs: Mapping[str, float]
    clips: Sequence[str]
    restored_step: int | None = None
    notes: Sequence[str] = field(default_factory=tuple)

    def write(self, folder: Path) -> Path:
        """Write atomically and return the path; a step that fails twice gets two files."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.step:08d}-{self.kind}.json"
        number = 2
        while path.exists():
            path = folder / f"{self.step:08d}-{self.kind}-{number}.json"
            number += 1
        content = {key: _json_number(value) for key, value in asdict(self).items()}
        atomic.write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        return path


def _json_number(value: Any) -> Any:
    """JSON has no NaN and no infinity: name them."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


class Guard:
    """Judges every update, counts what it refused, and knows when to go back."""

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self._recent: dict[str, deque[float]] = {}
        self._held: dict[str, list[float]] = {}  # what `_recent` was when the state was last held for a rollback
        self._since: dict[str, list[float]] = {}  # losses accepted since then
        self._ceilings: dict[str, float] = {}  # the highest of steps that a rollback takes again
        self._skips_in_a_row = 0
        self.skipped = 0
        self.rollbacks = 0
        self.lr_factor = 1.0
        self.accused: Accused | None = None  # until the next step says whether it is they or the weights
        self.suspects: set[str] = set()  # clips that were accused once while others went well
        self.first_loss: float | None = None  # held out, before the first step: what a later state is compared with

    def judge(self, optimizer: str, *, loss: float, grad_norm: float, overflow_is_scale: bool) -> UpdateVerdict:
        """Judge one optimizer's update from its loss and its gradient norm before clipping.

        Under fp16 an overflowing gradient is the loss scale's to handle (`overflow_is_scale`), so only the loss counts.
        """
        judgement: Judgement = "good"
        if not math.isfinite(loss):
            judgement = "non_finite_loss"
        elif not math.isfinite(grad_norm):
            judgement = "overflow" if overflow_is_scale else "non_finite_gradient"
        elif self._is_spike(optimizer, loss):
            judgement = "spike"
        return UpdateVerdict(judgement, loss, grad_norm)

    def _is_spike(self, optimizer: str, loss: float) -> bool:
        if self._config.spike is None:
            return False
        recent = self._recent.get(optimizer, ())
        if len(recent) >= self._config.window:
            return is_spike(loss, recent, threshold=self._config.spike)
        ceiling = self._ceilings.get(optimizer)
        return ceiling is not None and loss > ceiling + (EXPLOSION - 1) * abs(ceiling)

    def accept(self, optimizer: str, loss: float) -> None:
        """Let a good loss into the statistics."""
        self._recent.setdefault(optimizer, deque(maxlen=self._config.window)).append(loss)
        self._since.setdefault(optimizer, []).append(loss)

    def settle_good_step(self) -> None:
        """Note that a whole step went well."""
        self._skips_in_a_row = 0

    def forgive(self) -> None:
        """Forget the skips in a row: what follows is computed in another way."""
        self._skips_in_a_row = 0

    def begin_stage(self) -> None:
        """Forget what losses were like: other clips may have others, which are no spikes."""
        for known in (self._recent, self._held, self._since, self._ceilings):
            known.clear()
        self._skips_in_a_row = 0
        self.accused = None

    def decide(self, judgement: Judgement, *, half_done: bool = False) -> Action:
        """Choose between skipping this step and going back, after a refused update.

        `half_done` says that another optimizer has stepped already: a generator and its discriminator only ever go
        back together. Nothing else has moved the weights since they were good, so a single refused step is skipped,
        and only several in a row tell that the weights are what is wrong.
        """
        if judgement == "overflow":
            return "skip"
        self.skipped += 1
        self._skips_in_a_row += 1
        return "rollback" if half_done or self._skips_in_a_row >= self._config.max_skips else "skip"

    @property
    def first_skip(self) -> bool:
        """Whether the step that was just skipped is the first since a good one."""
        return self._skips_in_a_row == 1

    def convict(self) -> Accused | None:
        """Return who of the accused was accused before; a step of others has just gone well, so it is not the weights.

        Of the accused a batch alone does not tell which clip is bad: each that is accused in two of them.
        """
        accused, self.accused = self.accused, None
        if accused is None:
            return None
        guilty = [clip for clip in accused.clips if clip in self.suspects]
        self.suspects |= set(accused.clips)
        return Accused(accused.judgement, guilty) if guilty else None

    @property
    def exhausted(self) -> bool:
        """Whether the rollbacks the recipe allows are spent."""
        return self.rollbacks >= self._config.max_rollbacks

    def hold(self) -> None:
        """Note that the state as it is now is held for a rollback."""
        self._held = {name: list(losses) for name, losses in self._recent.items()}
        self._since.clear()

    def note_rollback(self) -> None:
        """Count a rollback, go back to the losses from before the held state, and lower the LR if asked to.

        Where these are too few to judge by, the steps that are taken again may have losses as high as they had, and
        no more than `EXPLOSION` times that.
        """
        self.rollbacks += 1
        self._skips_in_a_row = 0
        self.accused = None
        for name in self._recent.keys() | self._since.keys():
            seen = [*self._held.get(name, []), *self._since.get(name, [])]
            if len(seen) >= FEWEST:
                self._ceilings[name] = max(seen)
        window = self._config.window
        self._recent = {name: deque(losses, maxlen=window) for name, losses in self._held.items()}
        self._since.clear()
        self.lr_factor *= self._config.lr_factor

    def state_dict(self) -> dict[str, Any]:
        return {
            "recent": {name: list(losses) for name, losses in self._recent.items()},
            "skips_in_a_row": self._skips_in_a_row,
            "skipped": self.skipped,
            "rollbacks": self.rollbacks,
            "lr_factor": self.lr_factor,
            "ceilings": dict(self._ceilings),
            "accused": None if self.accused is None else [self.accused.judgement, list(self.accused.clips)],
            "suspects": sorted(self.suspects),
            "first_loss": self.first_loss,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        window = self._config.window
        self._recent = {name: deque(losses, maxlen=window) for name, losses in state_dict["recent"].items()}
        self._skips_in_a_row = int(state_dict["skips_in_a_row"])
        self.skipped = int(state_dict["skipped"])
        self.rollbacks = int(state_dict["rollbacks"])
        self.lr_factor = float(state_dict["lr_factor"])
        # Runs from before these were kept have none of them.
        self._ceilings = dict(state_dict.get("ceilings", {}))
        accused = state_dict.get("accused")
        self.accused = None if accused is None else Accused(accused[0], list(accused[1]))
        self.suspects = set(state_dict.get("suspects", ()))
        self.first_loss = state_dict.get("first_loss")
        self._held, self._since = {}, {}


def is_spike(loss: float, recent: Sequence[float] | deque[float], *, threshold: float) -> bool:
    """Tell whether a loss exploded: `threshold` robust standard deviations above the recent median, and thrice that."""
    middle = median(recent)
    spread = NORMAL * median(abs(value - middle) for value in recent)
    return loss > middle + threshold * max(spread, SMALLEST_SHARE * abs(middle)) and loss > EXPLOSION * middle
