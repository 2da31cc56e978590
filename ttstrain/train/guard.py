"""The guard: checks every update before it is made, and chooses between a skip and a rollback.

The check comes before the optimizer's step, because one step with a non-finite gradient ruins weights and optimizer
state. Only finite losses enter the statistics, which are medians, so that outliers do not distort them.
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
IncidentKind = Literal[Judgement, "out_of_memory", "non_finite_eval", "non_finite_state", "failed_save", "lost_process"]
Action = Literal["step", "skip", "rollback", "give up", "halve", "fall back", "exclude", "go on", "restart"]
Cause = Literal["data", "weights", "numeric", "not repeatable", "unknown"]

NORMAL = 1.4826  # median absolute deviation -> standard deviation of a normal distribution
SMALLEST_SHARE = 0.01  # of the median: a loss that hardly varies must not turn noise into spikes
EXPLOSION = 3.0  # times the median; harmless batches of one unusual clip reach twice the median, and many deviations
FEWEST = 8  # losses needed to set a ceiling for the steps after a snapshot


@dataclass(frozen=True, slots=True)
class UpdateVerdict:
    """The guard's judgement of one optimizer's update."""

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
class Finding:
    """Why an update was refused, as far as computing its batch once more has shown.

    `data`: it fails in fp32 too, and not all of its clips fail alone. `weights`: each of them does. `numeric`: it fails
    again, and in fp32 it does not. `not repeatable`: with the same random numbers it does not fail again.
    """

    cause: Cause
    why: str
    module: str | None = None  # the first whose output is not finite, or else the gradient of its output
    groups: Sequence[str] = ()  # "<optimizer>/<group>" of that module
    clips: Sequence[str] = ()  # that fail alone, in fp32

    def __str__(self) -> str:
        where = "" if self.module is None else f"; not finite first in `{self.module}`"
        return f"{self.cause}: {self.why}{where}"


@dataclass(frozen=True, slots=True)
class Incident:
    """The content of `incidents/<step>-<kind>.json`."""

    step: int  # updates done before the one that was refused
    kind: IncidentKind
    action: Action
    optimizer: str | None  # None if the incident concerns all or none
    loss: float | None
    grad_norm: float | None
    lrs: Mapping[str, float]
    clips: Sequence[str]
    restored_step: int | None = None
    notes: Sequence[str] = field(default_factory=tuple)
    finding: Finding | None = None  # None where the batch was not examined

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
    """Return NaN and infinity as text, which JSON does not have as numbers."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


class Guard:
    """Judges every update, counts refused ones, and decides when to roll back."""

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self._recent: dict[str, deque[float]] = {}
        self._held: dict[str, list[float]] = {}  # `_recent` at the last snapshot
        self._since: dict[str, list[float]] = {}  # losses accepted since the snapshot
        self._ceilings: dict[str, float] = {}  # the highest loss of the steps that a rollback repeats
        self._skips_in_a_row = 0
        self.skipped = 0
        self.rollbacks = 0
        self.lr_factor = 1.0
        self.accused: Accused | None = None  # until the next step shows whether the clips or the weights are to blame
        self.suspects: set[str] = set()  # clips of one batch that failed twice while another batch succeeded
        self.first_loss: float | None = None  # held-out loss before the first step, to compare later states with
        self.examined = 0  # refused batches
        self.lr_factors: dict[str, float] = {}  # "<optimizer>/<group>" -> beside `lr_factor`, which all groups have

    @property
    def never_skips(self) -> bool:
        """Whether every refusal rolls back, so that no batch is tried once more."""
        return self._config.max_skips == 1

    def judge(self, optimizer: str, *, loss: float, grad_norm: float, overflow_is_scale: bool) -> UpdateVerdict:
        """Judge one optimizer's update from its loss and its gradient norm before clipping.

        With `overflow_is_scale` (fp16) the loss scale handles an overflowing gradient, so only the loss counts.
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
        """Add a good loss to the statistics."""
        self._recent.setdefault(optimizer, deque(maxlen=self._config.window)).append(loss)
        self._since.setdefault(optimizer, []).append(loss)

    def note_good_step(self) -> None:
        """Reset the count of skips in a row after a complete step."""
        self._skips_in_a_row = 0

    def forgive(self) -> None:
        """Reset the count of skips in a row after a change of precision."""
        self._skips_in_a_row = 0

    def begin_stage(self) -> None:
        """Clear the loss statistics: the next stage's clips may have higher losses, which are not spikes."""
        for known in (self._recent, self._held, self._since, self._ceilings):
            known.clear()
        self._skips_in_a_row = 0
        self.accused = None

    def decide(self, judgement: Judgement, *, half_done: bool = False) -> Action:
        """Choose between a skip and a rollback after a refused update.

        `half_done`: another optimizer has already stepped, so the step must be rolled back as a whole (a generator
        and its discriminator belong together). Otherwise the weights are unchanged and the step is skipped; only
        several skips in a row mean that the weights themselves are bad.
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
        """Return the accused clips that were accused before; call it after a good step, which clears the weights.

        One batch does not show which of its clips is bad, so a clip is excluded after two refused batches.
        """
        accused, self.accused = self.accused, None
        if accused is None:
            return None
        guilty = [clip for clip in accused.clips if clip in self.suspects]
        self.suspects |= set(accused.clips)
        return Accused(accused.judgement, guilty) if guilty else None

    @property
    def exhausted(self) -> bool:
        """Whether no rollbacks are left."""
        return self.rollbacks >= self._config.max_rollbacks

    def hold(self) -> None:
        """Note that a snapshot of the current state was taken."""
        self._held = {name: list(losses) for name, losses in self._recent.items()}
        self._since.clear()

    def may_examine(self) -> bool:
        """Tell whether the next refused batch shall be examined, and count it."""
        if self.examined >= self._config.examine:
            return False
        self.examined += 1
        return True

    def note_rollback(self, *, groups: Sequence[str] = ()) -> str | None:
        """Count a rollback, restore the loss statistics of the snapshot, and lower the LR if the recipe says so.

        `groups` are those at fault, if known. Returns which LRs are lower from here on; None if none is.
        If the snapshot has too few losses to detect spikes, a loss of the repeated steps is a spike above `EXPLOSION`
        times the highest loss that they had before.
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
        return self._lower_lr(groups)

    def _lower_lr(self, groups: Sequence[str]) -> str | None:
        by = self._config.lr_factor
        if by == 1:
            return None
        if self._config.lr_factor_of == "all" or not groups:
            self.lr_factor *= by
            return f"LR multiplied by {self.lr_factor:g} from here on"
        for group in groups:
            self.lr_factors[group] = by * self.lr_factors.get(group, 1.0)
        lowered = [f"that of {group} by {self.lr_factors[group] * self.lr_factor:g}" for group in groups]
        return f"LR multiplied, {', '.join(lowered)} from here on"

    def factor_of(self, group: str) -> float:
        """Return by what rollbacks have multiplied the LR of `<optimizer>/<group>`."""
        return self.lr_factor * self.lr_factors.get(group, 1.0)

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
            **({"examined": self.examined} if self.examined else {}),
            **({"lr_factors": dict(self.lr_factors)} if self.lr_factors else {}),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        window = self._config.window
        self._recent = {name: deque(losses, maxlen=window) for name, losses in state_dict["recent"].items()}
        self._skips_in_a_row = int(state_dict["skips_in_a_row"])
        self.skipped = int(state_dict["skipped"])
        self.rollbacks = int(state_dict["rollbacks"])
        self.lr_factor = float(state_dict["lr_factor"])
        # Checkpoints of earlier versions have none of these.
        self._ceilings = dict(state_dict.get("ceilings", {}))
        accused = state_dict.get("accused")
        self.accused = None if accused is None else Accused(accused[0], list(accused[1]))
        self.suspects = set(state_dict.get("suspects", ()))
        self.first_loss = state_dict.get("first_loss")
        self.examined = int(state_dict.get("examined", 0))
        self.lr_factors = dict(state_dict.get("lr_factors", {}))
        self._held, self._since = {}, {}


def is_spike(loss: float, recent: Sequence[float] | deque[float], *, threshold: float) -> bool:
    """Tell whether a loss is over `threshold` robust standard deviations above the median, and over 3 times it."""
    middle = median(recent)
    spread = NORMAL * median(abs(value - middle) for value in recent)
    return loss > middle + threshold * max(spread, SMALLEST_SHARE * abs(middle)) and loss > EXPLOSION * middle
