"""A record of each start of a run: its recipe, plan and environment, in `sessions/0001`, `0002`, …

    sessions/0002/recipe.yaml, plan.json    as this start resolved them
    sessions/0002/env.json                  command, directory, folder, versions, commit, time, `goes_on_from`

The files of the same names in the run's folder are those of the latest start.
"""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from ttstrain.checkpoint.run_folder import ENVIRONMENT, PLAN, RECIPE, SESSIONS, identity, read_environment
from ttstrain.data import atomic
from ttstrain.environment import describe_environment
from ttstrain.logins import without_logins
from ttstrain.modules.cpu import switch
from ttstrain.plan.plan import Plan
from ttstrain.plan.render import recipe_yaml
from ttstrain.shell import quoted

FILES = (PLAN, ENVIRONMENT, RECIPE)  # the recipe is written last: where it is, the others are
_RESTARTS = {"--reset-step", "--recipe"}  # of `resume`: the run does not begin from its recipe's base


def write_description(folder: Path, plan: Plan, *, goes_on_from: Path | None = None) -> list[str]:
    """Write recipe, plan and environment of this start beside those of earlier starts; return notes for the user.

    The run's id is made at the first start and stays, wherever the folder is moved; the copy of a folder that is still
    there gets an id of its own, as trackers would take both for one run. `goes_on_from` is the checkpoint that this
    start resumes from. The notes name the original of a copy, versions that differ from the last start's, and CPU
    kernels that were switched on or off since.
    """
    former = read_environment(folder)
    _keep_former(folder)
    original = _original(folder, former)
    run_id = None if original is not None else identity(folder)
    environment = {"run_id": run_id or secrets.token_hex(4), **_environment(folder, plan, goes_on_from)}
    contents = {
        PLAN: json.dumps(plan.to_json(), indent=1, ensure_ascii=False) + "\n",
        ENVIRONMENT: json.dumps(environment, indent=1) + "\n",
        RECIPE: recipe_yaml(plan),
    }
    session = folder / SESSIONS / f"{len(sessions(folder)) + 1:04d}"
    for place in (session, folder):
        for name in FILES:
            atomic.write_text(place / name, contents[name])
    copied = (
        [] if original is None else [f"this folder is a copy of `{original}`: trackers show it as a run of its own"]
    )
    return [*copied, *_other_versions(former, environment), *_other_kernels(former, environment)]


def sessions(folder: Path) -> list[Path]:
    """List the records of a run's starts, the first one first."""
    root = folder / SESSIONS
    return sorted(path for path in root.iterdir() if path.name.isdigit()) if root.is_dir() else []


def began_from_elsewhere(folder: Path) -> str | None:
    """Return the command that started a run from a checkpoint; None for a run that started from its base."""
    first = next(iter(sessions(folder)), folder)
    written = read_environment(first)
    told = written.get("command")
    command = [str(part) for part in told] if isinstance(told, list) else []
    elsewhere = written.get("goes_on_from") is not None or (command[:1] == ["resume"] and _RESTARTS & {*command})
    return quoted("ttstrain", *command) if elsewhere else None


def _environment(folder: Path, plan: Plan, goes_on_from: Path | None) -> dict[str, Any]:
    texts = plan.facts.texts
    return {
        **describe_environment(),
        "cpu_kernels": switch.wanted(),
        **({"injected_faults": list(plan.recipe.debug.inject)} if plan.recipe.debug.inject else {}),
        "front_end": None if texts is None else dict(texts.front_end),
        "command": [without_logins(word) for word in sys.argv[1:]],
        "directory": str(Path.cwd()),
        "folder": str(folder.resolve()),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "goes_on_from": None if goes_on_from is None else str(goes_on_from),
    }


def _original(folder: Path, former: Mapping[str, Any]) -> Path | None:
    """Return the folder of which this one is a copy: that of the last start, where it still holds the same run."""
    written = former.get("folder")
    place = Path(written if isinstance(written, str) else "")
    try:
        elsewhere = place.is_absolute() and place.is_dir() and not place.samefile(folder)
    except (OSError, ValueError):  # not a valid path, or not on this machine
        return None
    run_id = identity(folder)
    return place if elsewhere and run_id is not None and identity(place) == run_id else None


def _keep_former(folder: Path) -> None:
    """Copy the description of a run that has no `sessions` folder yet into `sessions/0001`."""
    if sessions(folder) or not (folder / RECIPE).is_file():
        return
    for name in FILES:
        if (folder / name).is_file():
            atomic.write_bytes(folder / SESSIONS / "0001" / name, (folder / name).read_bytes())


def _other_versions(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    changed = [
        f"{name} {_shown(was)} then, {_shown(now_is)} now"
        for name, was, now_is in zip(("ttstrain", "torch", "commit"), _versions(then), _versions(now), strict=True)
        if was is not None and was != now_is
    ]
    if not changed:
        return []
    return [f"WARNING: other versions than at this run's last start: {'; '.join(changed)}. Numbers may differ"]


def _other_kernels(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    was, now_is = (environment.get("cpu_kernels") for environment in (then, now))
    if not isinstance(was, bool) or was == now_is:
        return []
    return [
        f"WARNING: {switch.VARIABLE} was {int(was)} at this run's last start and is {int(not was)} now. "
        "On a CPU numbers differ"
    ]


def _versions(environment: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    packages = environment.get("packages")
    torch = packages.get("torch") if isinstance(packages, Mapping) else None
    return environment.get("ttstrain"), torch, environment.get("commit")


def _shown(version: Any) -> str:
    return "unknown" if version is None else str(version)[:60]
