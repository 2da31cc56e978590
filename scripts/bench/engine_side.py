"""Our side of the benchmarks: the engine's own loop, on batches that are handed to it."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["WANDB_MODE"] = "offline"
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it complains where there is no GPU

import torch
from products import Recorder
from torch.profiler import ProfilerActivity, profile
from worker import Finished, TimedBatches, device_name, now, versions

from ttstrain import registry
from ttstrain.checkpoint.store import CheckpointStore
from ttstrain.contract.data import Batch
from ttstrain.contract.model import ResolvedRecipe
from ttstrain.contract.task import Task
from ttstrain.families.gpt_sovits.gpt import attention as gpt_attention
from ttstrain.modules.cpu import attention, dropout, frame_convolution
from ttstrain.modules.cpu.switch import kernels_on
from ttstrain.optim.ema import Ema
from ttstrain.optim.groups import build_groups
from ttstrain.optim.optimizers import Optimizers
from ttstrain.plan.plan import DataFacts, Plan
from ttstrain.plan.resolve import resolve
from ttstrain.recipe.schema import Recipe
from ttstrain.state import Progress, TrainState
from ttstrain.tensors.sharded import ModuleWeights
from ttstrain.tracking.build import build_trackers
from ttstrain.tracking.tracker import RunInfo
from ttstrain.train import loop
from ttstrain.train.best import Best
from ttstrain.train.distributed import Ranks
from ttstrain.train.guard import Guard
from ttstrain.train.held_out import HeldOut
from ttstrain.train.precision import Precision, choose
from ttstrain.train.preview_choice import Previews
from ttstrain.train.profiler import add_up
from ttstrain.train.rng import Rng
from ttstrain.train.run import Run
from ttstrain.train.snapshot import Snapshots

NEVER = 10**9
LONGEST = 12  # operations of a profile
# The CPU's kernels, each with the module that asks whether they are on.
KERNELS: dict[str, Any] = {
    "attention": attention,
    "documents": gpt_attention,
    "dropout": dropout,
    "frame_convolution": frame_convolution,
}


class Stopwatch:
    """Adds up how long parts of a step take, while it is switched on."""

    def __init__(self, device: torch.device) -> None:
        self.on = False
        self.seconds: Counter[str] = Counter()
        self._device = device

    @contextmanager
    def _timing(self, part: str) -> Iterator[None]:
        started = now(self._device)
        yield
        self.seconds[part] += now(self._device) - started

    def watch(self, owner: Any, name: str, *, part: str) -> None:
        """Time every call of a function of this module or object."""
        function: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if not self.on:
                return function(*args, **kwargs)
            with self._timing(part):
                return function(*args, **kwargs)

        setattr(owner, name, timed)


class Batches(TimedBatches[Batch]):
    """Stands in for the Loader. Between steps it answers by itself

    - `without`: it turns one kernel of the CPU's off;
    - `record`: from here on the heavy products of steps are noted, until `recorded` repeats them alone and says how
      long they took;
    - `profile`: from here on torch's profiler is on, until `profiled` says how long operations took, by kind.
    """

    epoch = 0

    def __init__(self, *args: Any, between: Callable[[dict[str, Any]], dict[str, Any]] | None = None, **kwargs: Any):
        recorder = Recorder()
        profiler = profile(activities=[ProfilerActivity.CPU], acc_events=True)

        def answer(command: dict[str, Any]) -> dict[str, Any]:
            if command["do"] == "without":
                leave_out(command["kernel"])
                return {}
            if command["do"] == "record":
                recorder.__enter__()
                return {}
            if command["do"] == "recorded":
                recorder.__exit__(None, None, None)
                return {"seconds": recorder.seconds()}
            if command["do"] == "profile":
                profiler.start()
                return {}
            if command["do"] == "profiled":
                profiler.stop()
                return _spent(profiler)
            if between is None:
                raise ValueError(f"unknown command {command}")
            return between(command)

        super().__init__(*args, between=answer, **kwargs)
        self._stream = iter(self)

    def next(self, micro_batches: int) -> list[Batch]:
        return [next(self._stream) for _ in range(micro_batches)]

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        pass


def _spent(profiler: profile) -> dict[str, Any]:
    """Say how many seconds torch's operations took by themselves, by kind and one by one, the longest first."""
    events: Any = profiler.events()  # type: ignore[no-untyped-call]
    found = add_up(events, steps=1, wall=1.0)
    longest = sorted(found.operations.items(), key=lambda one: -one[1])
    return {"kinds": dict(found.kinds), "operations": dict(longest[:LONGEST])}


def resolved(recipe: Recipe) -> ResolvedRecipe:
    """Check the `model:` section against its task's settings, as `finetune` does."""
    return ResolvedRecipe.of(recipe, registry.find_task(recipe.task).read_model(recipe.model))


def make_run(
    task: Task,
    recipe: ResolvedRecipe,
    make_loader: Callable[..., Batches],
    batches: list[Batch],
    *,
    steps: int,
    folder: Path,
    device: torch.device,
    packages: Sequence[str] = (),
    ema_decay: float | None = None,
    ranks: Ranks | None = None,
) -> Run:
    """Put a run together round a task, as the engine does, but for data, checkpoints and evaluations."""
    table = build_groups(task.optimized(), task.named_parameters(), recipe.optim)
    parts: dict[str, Any] = {
        "task": task,
        "optimizers": Optimizers.build(table, total_steps=steps, steps_per_epoch=steps),
        "precision": Precision(choose(recipe.train.precision, device), device),
        "guard": Guard(recipe.guard),
        "progress": Progress(),
        "best": Best(None),
        "rng": Rng(device),
    }
    ema = None
    if ema_decay is not None:
        ema = parts["ema"] = Ema(task.exported(), decay=ema_decay, start_step=0, every=1)
    loader = make_loader(
        batches,
        frames=[batch.num_frames for batch in batches],
        device=device,
        about={
            "device": device_name(device),
            "parameters": sum(parameter.numel() for parameter in task.parameters()),
            "versions": versions("ttstrain", "torch", *packages),
        },
    )
    plan = _plan(recipe, batches, steps=steps)
    trackers = build_trackers(recipe.tracking)
    trackers.start(
        RunInfo(
            name="bench",
            run_dir=folder,
            run_id="bench",
            resumed=False,
            recipe=recipe.model_dump(mode="json"),
            plan_summary=(),
            total_steps=steps,
            start_step=0,
            steps_per_epoch=float(steps),
        )
    )
    return Run(
        plan=plan,
        folder=folder,
        device=device,
        ranks=ranks or Ranks(),
        early_stop=None,
        weights=ModuleWeights(parts["task"]),
        loader=loader,
        state=TrainState(**parts, loader=loader),
        store=CheckpointStore(folder, keep_last=1),
        trackers=trackers,
        **{"ema": ema, **parts},
    )


def _plan(recipe: ResolvedRecipe, batches: Sequence[Batch], *, steps: int) -> Plan:
    """Plan a run over what is handed out, in which nothing happens but steps."""
    frames = tuple(batch.num_padded for batch in batches)
    facts = DataFacts(
        num_clips=sum(len(batch.ids) for batch in batches),
        hours=1.0,
        num_holdout=0,
        skipped={},
        fixed={},
        frames=frames,
        batches_per_epoch=len(batches),
        padding_share=0.0,
    )
    told = recipe.model_copy(update={"train": recipe.train.model_copy(update={"steps": steps})})
    plan = resolve(told, origins={}, facts=facts)
    return replace(plan, eval_every=None, sample_every=None, save_every=NEVER, snapshot_every=NEVER)


def leave_out(kernel: str | None) -> None:
    """Turn one kernel off and all others on; None turns all on."""
    if kernel not in {None, *KERNELS}:
        raise ValueError(f"no kernel is called {kernel}")
    for name, module in KERNELS.items():
        module.kernels_on = (lambda _: False) if name == kernel else kernels_on


def serve(run: Run, snapshots: Snapshots, *, give_back: bool) -> None:
    """Train on what is handed out until the parent has had enough; `give_back` memory as the C library does."""
    if give_back:
        loop.keep_freed_memory = lambda _: False
    try:
        loop.train(run, HeldOut(batches=[], previews=Previews()), snapshots)
    except Finished:
        run.trackers.finish("done")
