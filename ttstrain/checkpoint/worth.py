"""Checks before a run's weights are used: no better than the base, or raw weights of a schedule-free optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ttstrain.checkpoint.meta import Meta


def never_better(meta: Meta, state: Mapping[str, Any]) -> str | None:
    """Return a warning if no evaluation of a run, up to a checkpoint, was better than the one at step 0.

    `state` holds the checkpoint's part `best`. None where one was better, or without evaluations.
    """
    best = state.get("best")
    if not isinstance(best, Mapping) or best.get("step") != 0 or meta.step == 0:
        return None
    metric, at_start = best.get("metric"), best.get("value")
    now = meta.metrics.get(str(metric))
    figures = f"`{metric}` was {at_start:.4f} before the first step" if isinstance(at_start, float) else ""
    figures += f" and is {now:.4f} at step {meta.step:,}" if figures and now is not None else ""
    return (
        f"WARNING: up to step {meta.step:,} this run was never better than its base"
        f"{f' ({figures})' if figures else ''}: training made the model worse; use the base instead"
    )


def trained_schedule_free(state: Mapping[str, Any]) -> bool:
    """Tell whether a checkpoint's weights are the raw weights of a schedule-free optimizer.

    Evaluations and exports use the averaged weights instead. `state` holds the checkpoint's optimizers.
    """
    moments: Mapping[str, Mapping[str, Any]] = state.get("optimizers", {})
    return any("z" in own for optimizer in moments.values() for own in optimizer.values())
