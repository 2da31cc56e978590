"""Start a new run, or go on with one: everything around the loop."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from ttstrain import families
from ttstrain.checkpoint import store
from ttstrain.checkpoint.loading import load_weights
from ttstrain.checkpoint.upstream import open_checkpoint, resolve_base
from ttstrain.config.compose import Composed, compose
from ttstrain.config.plan import Plan
from ttstrain.config.render import plan_lines
from ttstrain.config.resolve import check_resume, parse, resolve
from ttstrain.data.prepare import Dataset, prepare_dataset
from ttstrain.engine import build, checkpointing, distributed, folder
from ttstrain.engine.distributed import Ranks
from ttstrain.engine.loop import train
from ttstrain.engine.run import Run
from ttstrain.errors import CheckpointError, RecipeError, UserError
from ttstrain.tracking import build_trackers
from ttstrain.tracking.tracker import RunInfo, Trackers

__all__ = ["resume", "start"]
