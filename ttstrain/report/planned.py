"""The LR of every group as the run's plan has it, to be drawn under what was applied."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter

from ttstrain.errors import RecipeError
from ttstrain.optim.schedule import lr_at
from ttstrain.optim.settings import FINDS_LR
from ttstrain.recipe.schema import Schedule

_SCHEDULE: TypeAdapter[Schedule] = TypeAdapter(Schedule)


def planned_lrs(plan: Mapping[str, Any], steps: Sequence[int]) -> dict[str, list[float]]:
    """Return `<optimizer>/<group>` -> the LR planned for the updates that complete these steps, from `plan.json`.

    Stages begin and end as planned. A group whose LR falls by layers is left out, since the plan does not know the
    layers, and one whose optimizer finds its LR. So is everything that a damaged plan does not say.
    """
    found: dict[str, list[float]] = {}
    groups = plan.get("groups")
    for group in groups if isinstance(groups, list) else ():
        try:
            if group["frozen"] is not True and group["layer_decay"] is None and not _finds_lr(plan, group):
                key = f"{group['optimizer']}/{group['name']}"
                found[key] = [_lr(plan, group, key, step - 1) for step in steps]
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecipeError):
            # of another version, or damaged (pydantic's error is a ValueError)
            continue
    return found


def _finds_lr(plan: Mapping[str, Any], group: Mapping[str, Any]) -> bool:
    optim = plan["recipe"].get("optim", {})
    own = optim.get("optimizers", {}).get(group["optimizer"], {})
    return (own.get("kind") or optim.get("kind")) in FINDS_LR


def _lr(plan: Mapping[str, Any], group: Mapping[str, Any], key: str, done: int) -> float:
    """Return a group's LR for the update after `done` finished ones."""
    if isinstance(group["frozen"], list) and group["frozen"][0] <= done < group["frozen"][1]:
        return 0.0
    schedule, peak, start = group["schedule"], group["lr"], 0
    steps, steps_per_epoch = plan["steps"], plan["steps_per_epoch"]
    if stages := plan["stages"]:
        index = bisect_right([stage["first_step"] for stage in stages], done) - 1
        stage = stages[max(index, 0)]
        own = plan["recipe"]["stages"][max(index, 0)].get("schedule")
        schedule = schedule if own is None else own
        peak, start = stage["lrs"][key], stage["first_step"]
        steps, steps_per_epoch = stage["steps"], stage["steps_per_epoch"]
    if peak == 0.0:
        return 0.0
    return lr_at(
        _SCHEDULE.validate_python(schedule),
        step=done - start,
        base_lr=peak,
        total_steps=steps,
        steps_per_epoch=steps_per_epoch,
    )
