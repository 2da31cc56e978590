"""A run's recipe, value by value with its origin, and the settings in which runs differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ALWAYS_OTHER = ("name", "run_dir")  # they tell runs apart, and nothing about them
_DECIDED = {  # keys that may say `auto` -> where the plan says what became of it
    "train.steps": "steps",
    "optim.schedule.warmup_steps": "warmup_steps",
    "ema.decay": "ema_decay",
    "eval.every": "eval_every",
    "sample.every": "sample_every",
    "checkpoint.every": "save_every",
    "guard.snapshot_every": "snapshot_every",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One value of a recipe."""

    key: str
    value: str  # as JSON
    origin: str  # default, configs/..., recipe or command line
    decided: str = ""  # what `auto` or a share became


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting in which runs differ."""

    key: str
    values: Sequence[str | None]  # of each run; None where a run has no such setting


def read_settings(plan: Mapping[str, Any]) -> list[Setting]:
    """Return every value of the recipe in a `plan.json`, in the recipe's order; none from a damaged plan."""
    recipe, origins = plan.get("recipe"), plan.get("origins")
    if not isinstance(recipe, Mapping):
        return []
    known = origins if isinstance(origins, Mapping) else {}
    return [
        Setting(key, _as_json(value), str(known.get(key, "")), decided=_decided(key, value, plan))
        for key, value in _leaves(recipe)
    ]


def differences(runs: Sequence[Sequence[Setting]]) -> list[Difference]:
    """List the settings whose values, or what `auto` became, are not the same in all runs."""
    tables = [{setting.key: _whole(setting) for setting in run} for run in runs]
    keys = list(dict.fromkeys(key for table in tables for key in table))
    found = [Difference(key, [table.get(key) for table in tables]) for key in keys if key not in ALWAYS_OTHER]
    return [one for one in found if len(set(one.values)) > 1]


def _whole(setting: Setting) -> str:
    return f"{setting.value} ({setting.decided})" if setting.decided else setting.value


def _leaves(values: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and their values; lists of plain values and empty containers are values."""
    if isinstance(values, Mapping) and values:
        for key, value in values.items():
            yield from _leaves(value, f"{at}.{key}" if at else str(key))
    elif isinstance(values, list) and any(isinstance(item, Mapping) for item in values):
        for number, item in enumerate(values):
            yield from _leaves(item, f"{at}.{number}")
    else:
        yield at, values


def _as_json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _decided(key: str, value: Any, plan: Mapping[str, Any]) -> str:
    found = plan.get(_DECIDED.get(key, ""))
    if found is None or found == value or not isinstance(found, int | float):
        return ""
    return f"{found:,}" if isinstance(found, int) else f"{found:.6g}"
