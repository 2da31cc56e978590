"""What runs and trials took on this machine, one small file for each recipe, in the cache folder.

A recipe is known again by what its costs depend on: its own values but for those that cost nothing or only say how
often something happens, and the machine.
"""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

from ttstrain import documents
from ttstrain.data import atomic
from ttstrain.data.location import cache_root, usable_cores
from ttstrain.digest import sha256
from ttstrain.errors import DataError
from ttstrain.forecast.costs import Costs, Source, of_json
from ttstrain.modules.cpu import switch
from ttstrain.plan.plan import Plan

FOLDER = "costs"
_FREE = (  # keys of a recipe on which no unit's cost depends
    *("name", "run_dir", "tracking", "checkpoint"),
    *("train.steps", "train.epochs", "train.seed", "train.early_stop", "train.log_every"),
    *("optim.lr", "optim.schedule", "eval.every", "sample.every", "guard.snapshot_every", "judge.between"),
)


def keep(plan: Plan, costs: Costs) -> None:
    """Keep the costs of a run or trial in place of the last ones of its kind. Raises OSError where that fails."""
    atomic.write_text(_path(plan, costs.source), json.dumps(costs.to_json(), indent=1) + "\n")


def look_up(plan: Plan) -> Costs | None:
    """Return the latest costs of this recipe on this machine; None where there are none that can be read."""
    found = []
    for source in ("trial", "run"):
        try:
            found.append(of_json(documents.read_json(_path(plan, source), error=DataError)))
        except DataError:  # there is none, or another version wrote it: it can be made again
            continue
    return max(found, key=lambda costs: costs.made, default=None)


def _path(plan: Plan, source: Source) -> Path:
    key = sha256(json.dumps(_decided_by(plan), sort_keys=True))[:24]
    return cache_root(plan.recipe.data.cache_dir) / FOLDER / f"{key}-{source}.json"


def _decided_by(plan: Plan) -> dict[str, Any]:
    values = plan.recipe.model_dump(mode="json")
    for key in _FREE:
        at = values
        *sections, last = key.split(".")
        for part in sections:
            at = at[part]
        at.pop(last, None)
    return {
        "recipe": values,
        "processes": plan.world_size,
        "machine": [platform.node(), usable_cores(), os.environ.get("OMP_NUM_THREADS", "")],
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        "kernels": switch.wanted(),
    }
