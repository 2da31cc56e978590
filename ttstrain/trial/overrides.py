"""What was measured, as overrides of a recipe's keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ttstrain.contract.model import ResolvedRecipe
from ttstrain.optim.settings import settings_of
from ttstrain.plan.plan import Plan
from ttstrain.recipe.compose import Composed
from ttstrain.recipe.emit import emit
from ttstrain.trial.lr import Curve

DEFAULT = "default"  # the rule of parameters that no rule of the recipe matches


def of_budget(plan: Plan, budget: int) -> dict[str, Any]:
    """Set the budget; where a step has several micro-batches, it keeps about as many frames as it had."""
    if budget == plan.recipe.data.batch_frames:
        return {}
    found: dict[str, Any] = {"data.batch_frames": budget}
    if plan.recipe.train.step_frames is None:
        accumulate = max(1, round(plan.recipe.data.batch_frames * plan.accumulate / budget))
        if accumulate < plan.accumulate:
            found["train.accumulate"] = accumulate
    return found


def of_lrs(recipe: ResolvedRecipe, curves: Sequence[Curve]) -> dict[str, Any]:
    """Set the LR of each group for which one was found; the others keep theirs, also where they follow another's."""
    optimizers = list(dict.fromkeys(curve.optimizer for curve in curves))
    base = {name: settings_of(recipe.optim, name).lr for name in optimizers}
    found: dict[str, Any] = {}
    for curve in curves:
        if curve.rule == DEFAULT and curve.found is not None:
            alone = len(optimizers) == 1 and recipe.optim.optimizers.get(curve.optimizer) is None
            found["optim.lr" if alone else f"optim.optimizers.{curve.optimizer}.lr"] = curve.found
            base[curve.optimizer] = curve.found
    for index, rule in enumerate(recipe.optim.groups):
        own = [curve for curve in curves if curve.rule == rule.name]
        if not own:
            continue
        first = own[0]
        wanted = min(first.planned if curve.found is None else curve.found for curve in own)
        if rule.lr_scale is not None:
            scale = float(f"{wanted / base[first.optimizer]:.3g}")
            if scale != rule.lr_scale:
                found[f"optim.groups.{index}.lr_scale"] = scale
        elif wanted != (base[first.optimizer] if rule.lr is None else rule.lr):
            found[f"optim.groups.{index}.lr"] = wanted
    return found


def as_arguments(found: Mapping[str, Any]) -> list[str]:
    """Write overrides as `key=value`."""
    return [f"{key}={_plain(value)}" for key, value in found.items()]


def as_config(found: Mapping[str, Any], composed: Composed, *, title: str) -> str:
    """Write overrides as a file that a recipe can extend; a list stands there whole, as `composed` has it."""
    values: dict[str, Any] = {}
    for key, value in found.items():
        *sections, last = key.split(".")
        number = next((i for i, part in enumerate(sections) if part.isdecimal()), None)
        if number is not None:
            sections, last = sections[: number - 1], sections[number - 1]
        at = values
        for part in sections:
            at = at.setdefault(part, {})
        at[last] = value if number is None else _at(composed.values, [*sections, last])
    head = (
        f"# {title}\n"
        "# A recipe takes it by `extends: [<this file>]`; keys that the recipe sets itself win, so drop them there.\n"
        "# On the command line: " + " ".join(as_arguments(found)) + "\n"
    )
    return head + (emit(values, lambda _key: None) if values else "{}\n")


def _at(values: Any, path: Sequence[str]) -> Any:
    for part in path:
        values = values[part]
    return values


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
