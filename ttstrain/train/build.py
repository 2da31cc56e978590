"""Building the objects of a run from its plan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ttstrain import registry
from ttstrain.checkpoint.lock import RunLock
from ttstrain.checkpoint.store import CheckpointStore
from ttstrain.contract.data import SuppliesAuxiliaryData
from ttstrain.contract.listening import Listener
from ttstrain.contract.model import KeepsFiles, ResolvedRecipe
from ttstrain.contract.task import AddsTokens, HasBlocks, Task
from ttstrain.data.choice import choose_ids
from ttstrain.data.loader import Loader
from ttstrain.data.mixture import Mixture
from ttstrain.modules import lora
from ttstrain.modules.nf4 import hold_in_4_bits
from ttstrain.optim.ema import Ema
from ttstrain.optim.groups import build_groups
from ttstrain.optim.new_embeddings import NewEmbeddings
from ttstrain.optim.optimizers import Optimizers
from ttstrain.optim.stages import Curriculum
from ttstrain.plan.plan import Plan
from ttstrain.recipe.faults import read_faults
from ttstrain.state import Progress, TrainState
from ttstrain.tensors.sharded import ModuleWeights
from ttstrain.tracking.tracker import Trackers
from ttstrain.train import checkpointing, early_stop, inject, snapshot
from ttstrain.train.best import Best
from ttstrain.train.compiled import compile_blocks
from ttstrain.train.distributed import Ranks
from ttstrain.train.faster import make_faster
from ttstrain.train.guard import Guard
from ttstrain.train.precision import NumberFormat, Precision, choose
from ttstrain.train.prepare import Prepared
from ttstrain.train.profiler import StepProfiler
from ttstrain.train.rng import Rng
from ttstrain.train.run import Run
from ttstrain.train.snapshot import Snapshots

if TYPE_CHECKING:
    from ttstrain.train.shards import Shards


def build(
    plan: Plan,
    prepared: Prepared,
    *,
    folder: Path,
    device: torch.device,
    ranks: Ranks,
    trackers: Trackers,
    lock: RunLock | None = None,
    rescue: Callable[[Path, Plan], RunLock] | None = None,
    listener: Listener | None = None,
) -> Run:
    """Build every object of a run. Its weights are newly initialized, its step is 0."""
    recipe = plan.recipe
    rng = Rng(device)
    rng.seed(recipe.train.seed)  # the same on every rank while weights are initialized
    task = _make_on(device, plan, speaks=plan.sample_every is not None and ranks.main)
    shards, optimizers = _with_optimizers(plan, task, device, ranks)
    ema = make_ema(plan, task)
    stop = _early_stop(plan)
    parts: dict[str, Any] = {
        "task": task,
        "optimizers": optimizers,
        "precision": Precision(_precision(recipe, device, ranks), device),
        "guard": Guard(recipe.guard),
        "progress": Progress(),
        "best": Best(recipe.checkpoint.best, measured=prepared.measured(recipe)),
        "loader": make_loader(plan, prepared, device, ranks),
        "rng": rng,
    }
    optional = {
        "task": (weights := ModuleWeights(task)),
        "curriculum": optimizers.curriculum if plan.staged else None,
        "ema": ema,
        "early_stop": stop,
        "new_rows": optimizers.new_embeddings,
    }
    rng.seed(recipe.train.seed, rank=ranks.rank)
    return Run(
        plan=plan,
        folder=folder,
        device=device,
        ranks=ranks,
        ema=ema,
        early_stop=stop,
        weights=weights,
        state=TrainState(**parts | {name: part for name, part in optional.items() if part is not None}),
        shards=shards,
        store=_store(recipe, folder),
        trackers=trackers,
        lock=lock,
        rescue=rescue,
        injector=inject.make(read_faults(recipe.debug.inject), folder=folder, ranks=ranks, say=trackers.note),
        profiler=_profiler(recipe, folder, device, trackers) if ranks.main else None,
        listener=listener,
        **parts,
    )


def _early_stop(plan: Plan) -> early_stop.EarlyStop | None:
    if any(stage.early_stop is not None for stage in plan.stages):
        return early_stop.EarlyStop(plan.stages[0].early_stop)
    return None


def _profiler(recipe: ResolvedRecipe, folder: Path, device: torch.device, trackers: Trackers) -> StepProfiler | None:
    steps = recipe.debug.profile
    return None if steps is None else StepProfiler(steps, folder=folder, device=device, say=trackers.note)


def _make_on(device: torch.device, plan: Plan, *, speaks: bool) -> Task:
    """Make the task on its device, and have it computed as the recipe asks."""
    task = make_task(plan)
    task.to(device)
    make_faster(task, plan.recipe.train)
    if speaks:
        task.prepare_sampling()  # a vocoder that is missing or another model's is refused before anything is trained
    if plan.recipe.train.compile:
        compile_blocks(task, device)
    return task


def _with_optimizers(plan: Plan, task: Task, device: torch.device, ranks: Ranks) -> tuple[Shards | None, Optimizers]:
    """Shard a task, if the plan says so, and build its optimizers."""
    shards = shard(plan, task, device, ranks)
    optimizers = make_optimizers(plan, task)  # decides what is trained
    if shards is not None:
        shards.begin()
    return shards, optimizers


def shard(plan: Plan, task: Task, device: torch.device, ranks: Ranks) -> Shards | None:
    """Shard a task over the processes, as the plan says; None where each of them holds all of it."""
    degree = plan.sharding.degree
    if degree == 1:
        return None
    from ttstrain.train.shards import Shards  # imports torch's FSDP2

    return Shards(task, device=device, ranks=ranks, degree=degree)


def make_task(plan: Plan) -> Task:
    """Build the plan's model with new weights, adapters included, on the current default device."""
    recipe = plan.recipe
    spec = registry.find_task(recipe.task)
    task = spec.build(recipe.model)
    if recipe.lora is not None:
        lora.add_lora(task.exported(), recipe.lora, default_targets=spec.planner(recipe.model).lora_targets())
        if recipe.lora.base == "nf4":
            hold_in_4_bits(task.repeated_blocks() if isinstance(task, HasBlocks) else ())
    return task


def make_optimizers(plan: Plan, task: Task) -> Optimizers:
    """Build the optimizers of a task whose weights are where they will be trained."""
    named = [(lora.plain_name(name), parameter) for name, parameter in task.named_parameters()]
    first = task.embeddings_first() if isinstance(task, AddsTokens) else None
    new_embeddings = None
    if first is not None:
        tables = dict(named)
        new_embeddings = NewEmbeddings(first.steps, {name: tables[name] for name in first.tables})
    return Optimizers.build_staged(
        build_groups(task.optimized(), named, plan.recipe.optim, embeddings_first=first),
        curriculum=Curriculum(plan.stages),
        seed=plan.recipe.train.seed,
        new_embeddings=new_embeddings,
    )


def make_ema(plan: Plan, task: Task) -> Ema | None:
    """Begin the EMA of a task's weights; None if the plan has none."""
    if plan.ema_decay is None:
        return None
    ema = plan.recipe.ema
    return Ema(task.exported(), decay=plan.ema_decay, start_step=ema.start_step, every=ema.every)


def make_loader(plan: Plan, prepared: Prepared, device: torch.device, ranks: Ranks) -> Loader | Mixture:
    """Make the loader of a run, at its first micro-batch."""
    recipe = plan.recipe
    clips = Loader(
        prepared.cache,
        prepared.train,
        prepared.task_data,
        batch_frames=recipe.data.batch_frames,
        max_clips=recipe.data.max_clips,
        seed=recipe.train.seed,
        rank=ranks.rank,
        world_size=ranks.world_size,
        workers=prepared.workers,
        device=device,
        # On a CPU the thread would compete with the step for its cores: nothing waits there that it could fill.
        ahead=device.type == "cuda",
        replay=prepared.replay,
        replay_share=0.0 if recipe.data.replay is None else recipe.data.replay.share,
        stages=choose_ids(prepared.train, recipe.stages),
    )
    task_data = prepared.task_data
    auxiliary = task_data.auxiliary() if isinstance(task_data, SuppliesAuxiliaryData) else None
    if auxiliary is None:
        return clips
    return Mixture(clips, auxiliary, total_rounds=plan.steps * plan.accumulate)


def _precision(recipe: ResolvedRecipe, device: torch.device, ranks: Ranks) -> NumberFormat:
    """Choose one precision for all ranks: fp32 where any of them chooses fp32."""
    kinds = ranks.gather(choose(recipe.train.precision, device))
    return "fp32" if "fp32" in kinds else kinds[0]


def _store(recipe: ResolvedRecipe, folder: Path) -> CheckpointStore:
    planner = registry.planner_of(recipe)
    return CheckpointStore(
        folder,
        keep_last=recipe.checkpoint.keep_last,
        keep_every=recipe.checkpoint.keep_every,
        background=recipe.checkpoint.background,
        texts=planner.kept_files() if isinstance(planner, KeepsFiles) else {},
    )


def make_snapshots(run: Run) -> Snapshots:
    """Make the run's snapshots, in memory or on disk as the recipe says."""
    kind = run.plan.recipe.guard.snapshot
    meta = checkpointing.describe(run, metrics={})
    return snapshot.make(kind, run_folder=run.folder, meta=meta, ranks=run.ranks, sharded=run.shards is not None)
