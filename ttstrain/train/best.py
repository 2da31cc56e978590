"""The best evaluation so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


class Best:
    """Remembers the lowest value of one metric and the step it was seen at."""

    def __init__(self, metric: str | None, *, measured: str | None = None) -> None:
        """`measured` hashes what evaluations measure, for whoever compares this run with its checkpoint."""
        self.metric = metric
        self.measured = measured
        self.since = 0  # evaluations up to this step, where it is not 0, measured something else
        self.value = math.inf
        self.step: int | None = None

    def improves(self, values: Mapping[str, float]) -> bool:
        """Tell whether an evaluation is the best yet; NaN never is."""
        return self.metric is not None and values.get(self.metric, math.inf) < self.value

    def take(self, step: int, values: Mapping[str, float]) -> None:
        """Remember an evaluation as the best one."""
        assert self.metric is not None
        self.value, self.step = values[self.metric], step

    def forget_after(self, step: int) -> None:
        """Forget a best from after `step`: a rollback takes those steps again, and their checkpoints are replaced."""
        if self.step is not None and self.step > step:
            self.forget()

    def forget(self) -> None:
        """Begin anew, where the metric means something else from now on."""
        self.value, self.step = math.inf, None

    def state_dict(self) -> dict[str, Any]:
        value = self.value if self.step is not None else None
        own = {"metric": self.metric, "value": value, "step": self.step}
        return {**own, "measured": self.measured, "since": self.since}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        self.since = int(state_dict.get("since", 0))
        if state_dict["metric"] != self.metric or state_dict["step"] is None:
            return  # another metric: its values do not compare
        self.value, self.step = float(state_dict["value"]), int(state_dict["step"])
