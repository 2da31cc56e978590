"""Chooses the trackers of a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from ttstrain.recipe.compose import COMMAND_LINE, RECIPE
from ttstrain.recipe.schema import TrackingConfig
from ttstrain.tracking.console import ConsoleTracker
from ttstrain.tracking.jsonl import JsonlTracker
from ttstrain.tracking.tensorboard import TensorboardTracker
from ttstrain.tracking.tracker import Trackers
from ttstrain.tracking.wandb import WandbTracker

if TYPE_CHECKING:
    from rich.console import Console


WandbMode = Literal["off", "online", "offline", "auto"]
MODES: Mapping[str, WandbMode] = {  # values of `$WANDB_MODE`; the last two are W&B's former names
    "disabled": "off",
    "online": "online",
    "offline": "offline",
    "run": "online",
    "dryrun": "offline",
}


def build_trackers(
    config: TrackingConfig, *, origins: Mapping[str, str] | None = None, console: Console | None = None
) -> Trackers:
    """Build what a recipe's `tracking:` asks for; nothing is opened or imported before `start`.

    `origins` say where each value was set: `$WANDB_MODE` counts where neither the recipe nor the command line sets
    `tracking.wandb`. `metrics.jsonl` comes first, because a resumed console reads the earlier evaluations from it.
    From here on the trackers receive what modules log as warnings. Raises RecipeError when a package is missing.
    """
    trackers = Trackers()
    screen = ConsoleTracker(console)
    trackers += [JsonlTracker(warn=trackers.warn), screen]
    said = origins is None or origins.get("tracking.wandb") in (RECIPE, COMMAND_LINE)
    mode = _wandb_mode(config, said=said, warn=trackers.warn)
    if mode != "off":
        wandb = WandbTracker(
            mode=mode,
            project=config.wandb_project,
            entity=config.wandb_entity,
            tags=config.tags,
            note=screen.note,
            warn=trackers.warn,
        )
        trackers.append(wandb)
    if config.tensorboard:
        trackers.append(TensorboardTracker())
    trackers.listen()
    return trackers


def _wandb_mode(config: TrackingConfig, *, said: bool, warn: Callable[[str], None]) -> WandbMode:
    wanted: WandbMode = config.wandb if config.wandb != "disabled" else "off"
    named = os.environ.get("WANDB_MODE", "").strip().lower()
    if not named or said:
        return wanted
    if named not in MODES:
        warn(f"WANDB_MODE is `{named}`, not one of {', '.join(MODES)}: `tracking.wandb` stays `{wanted}`")
        return wanted
    return MODES[named]
