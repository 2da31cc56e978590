"""The band of a recipe's reference runs, to be drawn under the curves of a run that is compared with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttstrain.bands.band import Band, find_band
from ttstrain.bands.compare import Edges, Place, edges, place_of
from ttstrain.bands.outcome import Outcome, read_outcome
from ttstrain.bands.tracker import POSITION
from ttstrain.errors import CheckpointError, RecipeError
from ttstrain.report.series import Metrics, Series


@dataclass(frozen=True, slots=True)
class Shade:
    """A metric's band, and where the run lies beside it."""

    key: str  # of the metric
    label: str  # for the legend
    place: Place | None  # None until the run has been compared
    stretches: Sequence[Edges]


def read_shades(run: Path, plan: Mapping[str, Any], metrics: Metrics) -> tuple[Mapping[str, Shade], list[str]]:
    """Return the bands of a run's metrics by key, and notes on what could not be read.

    There are none for a run that is not compared with reference runs.
    """
    try:
        outcome = read_outcome(run)
        band = None if outcome is None or outcome.why_not else find_band(outcome.recipe)
        if outcome is None or band is None:
            return {}, []
        return _shades(outcome, band, _seed(plan), metrics), []
    except (CheckpointError, RecipeError) as error:
        return {}, [f"the band of the reference runs is not drawn: {error.message}"]


def _shades(outcome: Outcome, band: Band, seed: int, metrics: Metrics) -> dict[str, Shade]:
    found: dict[str, Shade] = {}
    without = "not compared yet" if outcome.open else "not compared"  # another metric may have settled it
    for key in band.keys:
        stretches = edges(key, band, seed=seed)
        if stretches and key in metrics.series:
            place = _place(metrics, key)
            said = f"{len(band.runs)} reference runs of {outcome.recipe}: {place or without}"
            found[key] = Shade(key, said, place, stretches)
    return found


def _place(metrics: Metrics, key: str) -> Place | None:
    """Return where the stretch of a metric that lies farthest from the middle of its band lies."""
    positions = metrics.series.get(POSITION + key, Series()).values
    return place_of(max(positions, key=abs)) if len(positions) else None


def _seed(plan: Mapping[str, Any]) -> int:
    """Return the run's seed; -1, which is no reference run's, where a damaged plan does not say."""
    try:
        return int(plan["recipe"]["train"]["seed"])
    except (KeyError, TypeError, ValueError):
        return -1
