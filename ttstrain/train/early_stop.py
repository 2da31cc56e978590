"""Stops a run, or the stage it is in, whose evaluations no longer get better."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any

from ttstrain.contract.listening import CHOSEN_SCORE
from ttstrain.errors import RecipeError
from ttstrain.recipe import schema as recipe


class EarlyStop:
    """Counts evaluations without improvement; lower is better, and NaN is never an improvement. A `Stateful`.

    With the judge's score higher is better, and listenings are counted.
    """

    def __init__(self, config: recipe.EarlyStop | None) -> None:
        self.config = config  # None never stops
        self.best = math.inf
        self.num_bad = 0  # evaluations since the best

    def restart(self, config: recipe.EarlyStop | None) -> None:
        """Begin a stage: by its rule, and without a memory of the stage before."""
        self.config, self.best, self.num_bad = config, math.inf, 0

    @property
    def by_judge(self) -> bool:
        """Whether the judge's score decides."""
        return self.config is not None and self.config.metric == recipe.JUDGE

    def update(self, values: Mapping[str, float]) -> bool:
        """Take in one evaluation, or one listening, and tell whether to stop.

        Raises RecipeError when it lacks the metric.
        """
        if self.config is None:
            return False
        metric = CHOSEN_SCORE if self.by_judge else self.config.metric
        if metric not in values:
            near = difflib.get_close_matches(metric, list(values), n=1, cutoff=0.0)
            raise RecipeError(
                f"`early_stop.metric`: evaluations have no `{metric}`",
                hint=f"did you mean `{near[0]}`?" if near else "nothing is held out: set `data.holdout`",
            )
        value = float(values[metric]) * (-1 if self.by_judge else 1)
        if value < self.best - self.config.min_delta:
            self.best, self.num_bad = value, 0
        else:
            self.num_bad += 1
        return self.num_bad >= self.config.patience

    def state_dict(self) -> dict[str, Any]:
        best = self.best if math.isfinite(self.best) else None  # JSON has no infinity
        return {"best": best, "num_bad": self.num_bad, "metric": None if self.config is None else self.config.metric}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        best = state_dict["best"]
        self.best = math.inf if best is None else float(best)
        self.num_bad = int(state_dict["num_bad"])
