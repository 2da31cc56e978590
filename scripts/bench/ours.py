"""Our side of the step benchmark: the engine's own loop, on batches that are handed to it. Started by step.py."""

from __future__ import annotations

import argparse
import functools
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ["WANDB_MODE"] = "offline"

import torch
import workload
from worker import Finished, TimedBatches, device_name, now, take_stdout, versions

from ttstrain import families
from ttstrain.config.recipe import Recipe
from ttstrain.engine import loop
from ttstrain.engine.best import Best
from ttstrain.engine.build import choose_device
from ttstrain.engine.distributed import Ranks
from ttstrain.engine.guard import Guard
from ttstrain.engine.precision import Precision, choose
from ttstrain.engine.previews import Previews
from ttstrain.engine.rng import Rng
from ttstrain.engine.run import Run
from ttstrain.engine.snapshot import MemorySnapshots
from ttstrain.families.flow.data import FlowBatch, FlowExample
from ttstrain.optim.ema import Ema
from ttstrain.optim.groups import build_groups
from ttstrain.optim.optimizers import Optimizers
from ttstrain.state import Progress, TrainState
from ttstrain.tracking.build import build_trackers
from ttstrain.tracking.tracker import RunInfo

NEVER = 10**9
SNAPSHOT_EVERY = 100  # steps; what `guard.snapshot_every: auto` comes to in all but the shortest runs
EMA_DECAY = 0.9999


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

    def watch_block(self, owner: Any, name: str, *, part: str) -> None:
        """Time entering and leaving a context manager, not what happens inside."""
        function: Callable[..., Any] = getattr(owner, name)

        @contextmanager
        def timed(*args: Any, **kwargs: Any) -> Iterator[Any]:
            block = function(*args, **kwargs)
            if not self.on:
                with block as value:
                    yield value
                return
            with self._timing(part):
                value = block.__enter__()
            yield value
            with self._timing(part):
                block.__exit__(None, None, None)

        setattr(owner, name, timed)


class Batches(TimedBatches[FlowBatch]):
    """Stands in for the Loader."""

    epoch = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stream = iter(self)

    def next(self, micro_batches: int) -> list[FlowBatch]:
        return [next(self._stream) for _ in range(micro_batches)]

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        pass


def recipe_of(size: workload.Size) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "bench",
            "task": "flow",
            "model": {
                "dim": size.dim,
                "depth": size.depth,
                "heads": size.heads,
                "ff_mult": size.ff_mult,
                "text_dim": size.text_dim,
                "conv_layers": size.conv_layers,
                "dropout": workload.DROPOUT,
            },
            "optim": {
                "lr": workload.LR,
                "max_grad_norm": workload.MAX_GRAD_NORM,
                "schedule": {"kind": "f5_linear", "warmup_steps": workload.WARMUP_STEPS},
            },
            "tracking": {"wandb": "offline"},
        }
    )


def collate(task_data: Any, clips: workload.Clips, device: torch.device) -> FlowBatch:
    ids = {token: index for index, token in enumerate(workload.vocab())}
    examples = [
        FlowExample(id=f"clip-{i}", mel=torch.from_numpy(mel), text=torch.tensor([ids[token] for token in text]))
        for i, (mel, text) in enumerate(zip(clips.mels, clips.texts, strict=True))
    ]
    batch: FlowBatch = task_data.collate(examples)
    return batch.to(device)


def build(size: workload.Size, precision: str, folder: Path, batches: Callable[..., Batches]) -> Run:
    recipe = recipe_of(size)
    device = choose_device("auto")
    spec = families.find_task(recipe.task)
    config = spec.config.model_validate(recipe.model)
    task = spec.load_task()(config).to(device)
    task.train()
    table = build_groups(task.optimized(), task.named_parameters(), recipe.optim)
    parts: dict[str, Any] = {
        "task": task,
        "optimizers": Optimizers.build(table, total_steps=workload.TOTAL_STEPS, steps_per_epoch=workload.TOTAL_STEPS),
        "ema": Ema(task.exported(), decay=EMA_DECAY, start_step=0, every=1),
        "precision": Precision(choose(precision, device), device),
        "guard": Guard(recipe.guard),
        "progress": Progress(),
        "best": Best(None),
        "rng": Rng(device),
    }
    clips = workload.make_batches(size)
    task_data = spec.load_data()(config)
    loader = batches(
        [collate(task_data, batch, device) for batch in clips],
        frames=[batch.num_frames for batch in clips],
        device=device,
        about={
            "device": device_name(device),
            "parameters": sum(parameter.numel() for parameter in task.parameters()),
            "versions": versions("ttstrain", "torch"),
        },
    )
    plan = SimpleNamespace(
        recipe=recipe,
        steps=workload.TOTAL_STEPS,
        eval_every=None,
        sample_every=None,
        save_every=NEVER,
        snapshot_every=NEVER,
    )
    trackers = build_trackers(recipe.tracking)
    trackers.start(
        RunInfo(
            name="bench",
            run_dir=folder,
            run_id="bench",
            resumed=False,
            recipe=recipe.model_dump(mode="json"),
            plan_summary=(),
            total_steps=workload.TOTAL_STEPS,
            start_step=0,
            steps_per_epoch=float(workload.TOTAL_STEPS),
        )
    )
    state = TrainState(**parts, loader=loader)
    return Run(
        plan=plan,
        folder=folder,
        device=device,
        ranks=Ranks(),
        early_stop=None,
        loader=loader,
        state=state,
        store=None,
        trackers=trackers,
        **parts,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", required=True, choices=workload.SIZES)
    parser.add_argument("--precision", required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    answers = take_stdout()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        snapshots = MemorySnapshots()

        def answer(command: dict[str, Any]) -> dict[str, Any]:
            if command["do"] == "watch":
                started = now(run.device)
                snapshots.take(run.state, run.progress.step)
                taken = now(run.device) - started
                stopwatch.seconds.clear()
                stopwatch.on = True
                return {"seconds": taken, "every": SNAPSHOT_EVERY}
            stopwatch.on = False
            return {"seconds": dict(stopwatch.seconds)}

        run = build(
            workload.SIZES[options.size],
            options.precision,
            folder,
            functools.partial(Batches, answers=answers, between=answer),
        )
        stopwatch = Stopwatch(run.device)
        for method in ("judge", "accept", "settle_good_step"):
            stopwatch.watch(run.guard, method, part="guard: judge")
        stopwatch.watch(run.ema, "update", part="ema")
        stopwatch.watch(run.optimizers, "grad_norms", part="logging: measure")
        stopwatch.watch_block(run.optimizers, "measure_update", part="logging: measure")
        stopwatch.watch(loop, "_log", part="logging: write")
        try:
            loop.train(run, loop.HeldOut(batches=[], previews=Previews()), snapshots)
        except Finished:
            run.trackers.finish("done")


if __name__ == "__main__":
    main()
