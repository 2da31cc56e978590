"""A rehearsal for people and for scripts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ttstrain.layout import labelled
from ttstrain.plan.plan import Plan
from ttstrain.plan.render import shown_bytes
from ttstrain.rehearsal.step import Rehearsal


def largest(found: Sequence[Rehearsal]) -> Rehearsal:
    """Return the step that took the most."""
    return max(found, key=lambda one: one.peak)


def rehearsal_lines(found: Sequence[Rehearsal], plan: Plan) -> list[str]:
    """Return the largest step as lines of a plan, compared with its formula."""
    most = largest(found)
    share = most.peak / plan.memory_bytes - 1
    than = f"{100 * abs(share):.0f} % {'more' if share > 0 else 'less'} than by formula"
    return [
        *labelled("rehearsed", f"{shown_bytes(most.peak)} on a GPU in {most.precision}, {than}"),
        *labelled("", f"{most.clips} clips, {most.units:,} frames; {shown_bytes(most.state)} stay between steps"),
        *labelled("", "CUDA itself, workspaces and gaps come on top: 1 to 2 GB"),
    ]


def rehearsal_json(found: Sequence[Rehearsal]) -> dict[str, Any]:
    """Return the largest step for scripts, sizes in bytes."""
    most = largest(found)
    return {
        "precision": most.precision,
        "clips": most.clips,
        "frames": most.units,
        "weights": most.weights,
        "state": most.state,
        "peak": most.peak,
    }
