"""The best evaluation so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ttstrain.contract.listening import CHOSEN_SCORE
from ttstrain.recipe.schema import JUDGE


class Best:
    """Remembers the lowest value of one metric, or the judge's highest score, and the step it was seen at."""

    def __init__(self, metric: str | None, *, measured: str | None = None) -> None:
        """`measured` is the hash of the held-out data, to compare this run with its checkpoint."""
        self.metric = CHOSEN_SCORE if metric == JUDGE else metric
        self._sign = -1 if self.metric == CHOSEN_SCORE else 1
        self.measured = measured
        self.since = 0  # evaluations up to this step, where it is not 0, measured something else
        self.value = math.inf
        self.step: int | None = None
        self.of_left_course = False  # measured before a rollback to an earlier step than its own

    def improves(self, values: Mapping[str, float]) -> bool:
        """Tell whether an evaluation is the best yet; NaN never is."""
        if self.metric is None or self.metric not in values:
            return False
        so_far = math.inf if self.step is None else self._sign * self.value
        return self._sign * values[self.metric] < so_far

    def take(self, step: int, values: Mapping[str, float]) -> None:
        """Remember an evaluation as the best one."""
        assert self.metric is not None
        self.value, self.step, self.of_left_course = values[self.metric], step, False

    def lost_by_saving(self, step: int) -> bool:
        """Tell whether a checkpoint of `step` would overwrite the best one, made at that step before a rollback."""
        return self.of_left_course and self.step == step

    def forget(self) -> None:
        """Reset the best, where later values cannot be compared with it."""
        self.value, self.step, self.of_left_course = math.inf, None, False

    def state_dict(self) -> dict[str, Any]:
        value = self.value if self.step is not None else None
        own = {"metric": self.metric, "value": value, "step": self.step}
        left = {"of_left_course": True} if self.of_left_course else {}
        return {**own, "measured": self.measured, "since": self.since, **left}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        self.since = int(state_dict.get("since", 0))
        if state_dict["metric"] != self.metric or state_dict["step"] is None:
            return  # another metric: its values do not compare
        self.value, self.step = float(state_dict["value"]), int(state_dict["step"])
        self.of_left_course = bool(state_dict.get("of_left_course", False))
