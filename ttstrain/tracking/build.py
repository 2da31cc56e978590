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
from ttstrain.tracking.trackio import TrackioTracker
from ttstrain.tracking.wandb import WandbNames, WandbTracker

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
YES = ("true", "1", "yes", "on")  # of `$WANDB_DISABLED`, which other trainers read


def build_trackers(
    config: TrackingConfig, *, origins: Mapping[str, str] | None = None, console: Console | None = None
) -> Trackers:
    """Build what a recipe's `tracking:` asks for; nothing is opened or imported before `start`.

    `origins` say where each value was set: W&B's environment variables count where neither the recipe nor the command
    line sets the same thing. `metrics.jsonl` comes first: a resumed console reads the earlier evaluations from it.
    From here on the trackers receive what modules log as warnings. Raises RecipeError when a package is missing.
    """
    trackers = Trackers()
    screen = ConsoleTracker(console)
    trackers += [JsonlTracker(warn=trackers.warn), screen]
    mode = _wandb_mode(config, said=_is_said("tracking.wandb", origins), warn=trackers.warn)
    if mode != "off":
        wandb = WandbTracker(
            mode=mode,
            names=_wandb_names(config, origins),
            checkpoints=config.wandb_checkpoints,
            note=screen.note,
            warn=trackers.warn,
        )
        trackers.append(wandb)
    if config.tensorboard:
        trackers.append(TensorboardTracker())
    if config.trackio:
        trackers.append(TrackioTracker(project=config.wandb_project, note=screen.note))
    trackers.listen()
    return trackers


def _is_said(key: str, origins: Mapping[str, str] | None) -> bool:
    """Tell whether the recipe itself or the command line sets a key."""
    if origins is None:
        return True
    return origins.get(key) in (RECIPE, COMMAND_LINE)


def _wandb_names(config: TrackingConfig, origins: Mapping[str, str] | None) -> WandbNames:
    """Return project, entity and tags: the recipe's, or those of the environment where the recipe does not say."""

    def environment(key: str, variable: str) -> str:
        return "" if _is_said(f"tracking.{key}", origins) else os.environ.get(variable, "").strip()

    tags = [tag.strip() for tag in environment("tags", "WANDB_TAGS").split(",") if tag.strip()]
    return WandbNames(
        project=environment("wandb_project", "WANDB_PROJECT") or config.wandb_project,
        entity=environment("wandb_entity", "WANDB_ENTITY") or config.wandb_entity,
        tags=tuple(tags or config.tags),
        run=os.environ.get("WANDB_NAME", "").strip() or None,
        said=frozenset(key for key in ("project", "entity") if _is_said(f"tracking.wandb_{key}", origins)),
    )


def _wandb_mode(config: TrackingConfig, *, said: bool, warn: Callable[[str], None]) -> WandbMode:
    wanted: WandbMode = config.wandb if config.wandb != "disabled" else "off"
    if said:
        return wanted
    named = os.environ.get("WANDB_MODE", "").strip().lower()
    if not named:
        return "off" if os.environ.get("WANDB_DISABLED", "").strip().lower() in YES else wanted
    if named not in MODES:
        warn(f"WANDB_MODE is `{named}`, not one of {', '.join(MODES)}: `tracking.wandb` stays `{wanted}`")
        return wanted
    return MODES[named]
