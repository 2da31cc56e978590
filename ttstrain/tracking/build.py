"""Chooses the trackers of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ttstrain.config.recipe import TrackingConfig
from ttstrain.tracking.console import ConsoleTracker
from ttstrain.tracking.jsonl import JsonlTracker
from ttstrain.tracking.tensorboard import TensorboardTracker
from ttstrain.tracking.tracker import Trackers
from ttstrain.tracking.wandb import WandbTracker

if TYPE_CHECKING:
    from rich.console import Console


def build_trackers(config: TrackingConfig, *, console: Console | None = None) -> Trackers:
    """Build what a recipe's `tracking:` asks for; nothing is opened or imported before `start`.

    `metrics.jsonl` comes first, because a resumed console reads the earlier evaluations from it. Raises RecipeError
    when a package is missing.
    """
    screen = ConsoleTracker(console)
    trackers = Trackers([JsonlTracker(warn=screen.warn), screen])
    if config.wandb != "off":
        wandb = WandbTracker(
            mode=config.wandb,
            project=config.wandb_project,
            entity=config.wandb_entity,
            tags=config.tags,
            note=screen.note,
            warn=screen.warn,
        )
        trackers.append(wandb)
    if config.tensorboard:
        trackers.append(TensorboardTracker())
    return trackers
