"""The live objects of one run. The loop is a function that reads from top to bottom, not a method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ttstrain.checkpoint.lock import RunLock
from ttstrain.checkpoint.meta import BaseMeta
from ttstrain.checkpoint.store import CheckpointStore
from ttstrain.contract.listening import Listener
from ttstrain.contract.task import Task
from ttstrain.data.loader import Loader
from ttstrain.data.mixture import Mixture
from ttstrain.optim.ema import Ema
from ttstrain.optim.optimizers import Optimizers
from ttstrain.plan.plan import Plan
from ttstrain.state import Progress, TrainState
from ttstrain.tensors.sharded import ModuleWeights
from ttstrain.tracking.tracker import Trackers
from ttstrain.train.best import Best
from ttstrain.train.distributed import Ranks
from ttstrain.train.early_stop import EarlyStop
from ttstrain.train.guard import Guard
from ttstrain.train.inject import Injector
from ttstrain.train.precision import Precision
from ttstrain.train.profiler import StepProfiler
from ttstrain.train.rng import Rng
from ttstrain.train.spent import Spent
from ttstrain.train.sums import GradientSums

if TYPE_CHECKING:
    from ttstrain.train.shards import Shards  # which imports torch's FSDP2


@dataclass(slots=True)
class Run:
    """Everything a step, an evaluation or a checkpoint needs."""

    plan: Plan
    folder: Path
    device: torch.device
    ranks: Ranks
    task: Task
    loader: Loader | Mixture
    optimizers: Optimizers
    ema: Ema | None
    precision: Precision
    guard: Guard
    rng: Rng
    early_stop: EarlyStop | None
    best: Best
    progress: Progress
    state: TrainState
    store: CheckpointStore
    trackers: Trackers
    weights: ModuleWeights  # the task's, as a part of the state
    base: BaseMeta | None = None  # what checkpoints are over, where they leave out the weights that it holds
    shards: Shards | None = None  # where processes hold parts of the weights
    sums: GradientSums = field(default_factory=GradientSums)  # where each holds all of them
    lock: RunLock | None = None  # of the folder, in the main process
    rescue: Callable[[Path, Plan], RunLock] | None = None  # makes a folder in place of a lost one, for this plan
    injector: Injector | None = None  # of faults, where this process brings some in
    profiler: StepProfiler | None = None  # in the main process, where steps are to be profiled
    listener: Listener | None = None  # to what is generated at sampling steps, in the main process
    spent: Spent = field(default_factory=Spent)  # where this session's time goes

    def folder_is_lost(self) -> bool:
        """Tell whether the run's folder was removed or renamed under this process; only the main one knows."""
        return self.lock is not None and self.lock.lost()
