"""From a plan to a live run."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ttstrain import registry
from ttstrain.checkpoint.lock import RunLock
from ttstrain.checkpoint.store import CheckpointStore
from ttstrain.contract.data import Clip
from ttstrain.contract.task import RowsFirst, Task
from ttstrain.data.choice import choose_ids, chosen
from ttstrain.data.loader import Loader
from ttstrain.data.mixture import Mixture
from ttstrain.errors import RecipeError, first_line
from ttstrain.infer.previews import Previews, choose_previews
from ttstrain.modules import lora
from ttstrain.optim.ema import Ema
from ttstrain.optim.groups import build_groups
from ttstrain.optim.new_rows import NewRows
from ttstrain.optim.optimizers import Optimizers
from ttstrain.optim.stages import Curriculum
from ttstrain.plan.plan import Plan
from ttstrain.recipe.schema import Recipe, StageConfig
from ttstrain.runs.prepare import Prepared
from ttstrain.state import Progress, TrainState
from ttstrain.tracking.tracker import Trackers
from ttstrain.train import checkpointing, early_stop, snapshot
from ttstrain.train.best import Best
from ttstrain.train.distributed import Ranks
from ttstrain.train.evaluation_loop import Pieces
from ttstrain.train.guard import Guard
from ttstrain.train.loop import HeldOut
from ttstrain.train.precision import Kind, Precision, choose
from ttstrain.train.rng import Rng
from ttstrain.train.run import Run
from ttstrain.train.snapshot import Snapshots


def choose_device(name: str, *, tf32: bool, ranks: Ranks | None = None) -> torch.device:
    """Resolve `auto` to this process's GPU, or to the CPU where there is none; make a GPU ready.

    `tf32` says whether it may compute fp32 products in TF32.
    """
    ranks = ranks or Ranks()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RecipeError(f"unknown device `{name}`", hint="use `auto`, `cpu`, `cuda` or `cuda:N`") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise RecipeError(f"`train.device={name}` but no GPU can be used", hint="see `ttstrain env`; or use `cpu`")
        if device.index is not None and not ranks.alone:
            raise RecipeError(f"`train.device={name}` is one GPU for {ranks.world_size} processes", hint="use `cuda`")
        device = _own_gpu(device, ranks)
        torch.cuda.set_device(device)
        # torch 2.11's first choice on H100 and H200. It builds a plan for every new shape, about 0.5 s each way
        # (modelscope/FunASR#3704), and can give NaN gradients under a mask (pytorch#196678).
        torch.backends.cuda.enable_cudnn_sdp(False)
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.allow_tf32 = tf32
    return device


def _own_gpu(device: torch.device, ranks: Ranks) -> torch.device:
    """Choose this process's GPU among those it sees, which no other process may have.

    A scheduler that gives each process one GPU to see (Slurm's `--gpus-per-task=1`) has chosen already.
    """
    count = torch.cuda.device_count()
    wanted = ranks.local_rank if device.index is None else device.index
    bound = not ranks.alone and count == 1
    if wanted >= count and not bound:
        raise RecipeError(
            f"there is no GPU {wanted}: this machine has {count}",
            hint="start one process per GPU (`--nproc`), or use `train.device=cpu`",
        )
    own = torch.device("cuda", 0 if bound else wanted)
    if ranks.alone:
        return own
    taken = ranks.gather((platform.node(), str(torch.cuda.get_device_properties(own).uuid)))
    if taken.count(taken[ranks.rank]) > 1:
        sharing = [str(rank) for rank, gpu in enumerate(taken) if gpu == taken[ranks.rank]]
        raise RecipeError(
            f"processes {', '.join(sharing)} have the same GPU of `{platform.node()}`",
            hint="start one process per GPU (`--nproc`), or use `train.device=cpu`",
        )
    return own


def build(
    plan: Plan,
    prepared: Prepared,
    *,
    folder: Path,
    device: torch.device,
    ranks: Ranks,
    trackers: Trackers,
    lock: RunLock | None = None,
) -> Run:
    """Make every live part of a run; weights are fresh, the step is 0."""
    recipe = plan.recipe
    spec = registry.find_task(recipe.task)
    rng = Rng(device)
    rng.seed(recipe.train.seed)  # alike on every rank while weights are drawn
    task_class: Any = spec.load_task()
    config = spec.config.model_validate(recipe.model)
    task: Task = task_class(config)
    if recipe.lora is not None:
        lora.add_lora(task.exported(), recipe.lora, default_targets=config.lora_targets())
    task.to(device)
    if plan.sample_every is not None and ranks.main:
        task.ready_to_speak()  # a vocoder that is missing or another model's is refused before anything is trained
    named = [(lora.plain_name(name), parameter) for name, parameter in task.named_parameters()]
    rows_first = task.rows_first()
    table = build_groups(task.optimized(), named, recipe.optim, rows_first=rows_first)
    curriculum = Curriculum(plan.stages)
    optimizers = Optimizers.build_staged(
        table,
        curriculum=curriculum,
        seed=recipe.train.seed,
        new_rows=None if rows_first is None else _new_rows(rows_first, dict(named)),
    )
    ema = None
    if plan.ema_decay is not None:
        ema = Ema(task.exported(), decay=plan.ema_decay, start_step=recipe.ema.start_step, every=recipe.ema.every)
    clip_loader = Loader(
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
        replay=prepared.replay,
        replay_share=0.0 if recipe.data.replay is None else recipe.data.replay.share,
        stages=choose_ids(prepared.train, recipe.stages),
    )
    companions = prepared.task_data.companions()
    loader: Loader | Mixture = clip_loader
    if companions is not None:
        loader = Mixture(clip_loader, companions, total_rounds=plan.steps * plan.accumulate)
    precision = Precision(_precision(recipe, device, ranks), device)
    guard, progress, best = (
        Guard(recipe.guard),
        Progress(),
        Best(recipe.checkpoint.best, measured=prepared.measured(recipe)),
    )
    stop = None
    if any(stage.early_stop is not None for stage in plan.stages):
        stop = early_stop.EarlyStop(plan.stages[0].early_stop)
    parts: dict[str, Any] = {
        "task": task,
        "optimizers": optimizers,
        "precision": precision,
        "guard": guard,
        "progress": progress,
        "best": best,
        "loader": loader,
        "rng": rng,
    }
    if plan.staged:
        parts["curriculum"] = curriculum
    if ema is not None:
        parts["ema"] = ema
    if stop is not None:
        parts["early_stop"] = stop
    if optimizers.new_rows is not None:
        parts["new_rows"] = optimizers.new_rows
    rng.seed(recipe.train.seed, rank=ranks.rank)
    return Run(
        plan=plan,
        folder=folder,
        device=device,
        ranks=ranks,
        task=task,
        loader=loader,
        optimizers=optimizers,
        ema=ema,
        precision=precision,
        guard=guard,
        rng=rng,
        early_stop=stop,
        best=best,
        progress=progress,
        state=TrainState(**parts),
        store=CheckpointStore(
            folder,
            keep_last=recipe.checkpoint.keep_last,
            keep_every=recipe.checkpoint.keep_every,
            background=recipe.checkpoint.background,
            texts=config.kept_files(),
        ),
        trackers=trackers,
        lock=lock,
    )


def _precision(recipe: Recipe, device: torch.device, ranks: Ranks) -> Kind:
    """Choose the format that every rank's device has."""
    kinds = ranks.gather(choose(recipe.train.precision, device))
    return "fp32" if "fp32" in kinds else kinds[0]


def _new_rows(first: RowsFirst, named: Mapping[str, nn.Parameter]) -> NewRows:
    return NewRows(first.steps, {name: named[name] for name in first.tables})


def hold_out(run: Run, prepared: Prepared) -> HeldOut:
    """Collate the held-out clips once, and choose what is spoken."""
    recipe = run.plan.recipe
    clips = list(prepared.held_out)[: recipe.eval.max_clips] if run.plan.eval_every is not None else []
    previews = Previews()
    if run.plan.sample_every is not None and run.ranks.main:
        previews = _previews(recipe, prepared)
    retained = list(prepared.retained)[: recipe.eval.max_clips] if run.plan.eval_every is not None else []
    return HeldOut(
        batches=_in_one_piece(run, clips),
        previews=previews,
        retained=_in_one_piece(run, retained),
        stages={stage.name: _of_stage(run, stage, clips) for stage in recipe.stages},
    )


def _previews(recipe: Recipe, prepared: Prepared) -> Previews:
    """Choose what is spoken; a recording that cannot be read costs the previews, and not the run."""
    try:
        return Previews(choose_previews(recipe, prepared), has_base=recipe.base is not None)
    except Exception as error:
        return Previews(notes=[f"WARNING: there are no previews: {first_line(error)}"])


def _of_stage(run: Run, stage: StageConfig, clips: Sequence[Clip]) -> list[Pieces] | None:
    """Collate the held-out clips that a stage trains the like of; None where that is all."""
    own = chosen(clips, stage.data)
    return None if len(own) == len(clips) else _in_one_piece(run, own)


def _in_one_piece(run: Run, clips: Sequence[Clip]) -> list[Pieces]:
    return [[batch] for batch in run.loader.eval_batches(clips)]


def make_snapshots(run: Run) -> Snapshots:
    """Choose where the last good state is held."""
    folder = run.folder / f"snapshot-rank-{run.ranks.rank}"
    return snapshot.make(run.plan.recipe.guard.snapshot, folder=folder, meta=checkpointing.describe(run, metrics={}))
