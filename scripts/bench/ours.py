"""Our side of the step benchmark: the engine's own loop, on batches that are handed to it. Started by step.py."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import engine_side
import torch
import workload
from engine_side import Stopwatch
from worker import begin, now

from ttstrain import registry
from ttstrain.families.flow.data import FlowBatch, FlowExample
from ttstrain.optim import measured
from ttstrain.recipe.schema import Recipe
from ttstrain.train import loop
from ttstrain.train.compiled import compile_blocks
from ttstrain.train.device import choose_device
from ttstrain.train.snapshot import MemorySnapshots

SNAPSHOT_EVERY = 100  # steps; what `guard.snapshot_every: auto` comes to in all but the shortest runs
EMA_DECAY = 0.9999


def recipe_of(size: workload.Size, precision: str) -> Recipe:
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
                "dropout": size.dropout,
            },
            "optim": {
                "lr": workload.LR,
                "max_grad_norm": workload.MAX_GRAD_NORM,
                "schedule": {"kind": "f5_linear", "warmup_steps": workload.WARMUP_STEPS},
            },
            "train": {"precision": precision},
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


def main() -> None:
    options, answers = begin(workload.SIZES)

    size = workload.SIZES[options.size]
    recipe = engine_side.resolved(recipe_of(size, options.precision))
    device = choose_device("auto", tf32=True)
    spec = registry.find_task(recipe.task)
    task = spec.build(recipe.model).to(device)
    task.train()
    if options.compile:
        compile_blocks(task, device)
    task_data = spec.data(recipe.model)
    with tempfile.TemporaryDirectory() as name:
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

        run = engine_side.make_run(
            task,
            recipe,
            functools.partial(engine_side.Batches, answers=answers, between=answer),
            [collate(task_data, clips, device) for clips in workload.make_batches(size)],
            steps=workload.TOTAL_STEPS,
            folder=Path(name),
            device=device,
            ema_decay=EMA_DECAY,
        )
        stopwatch = Stopwatch(run.device)
        for method in ("judge", "accept", "note_good_step"):
            stopwatch.watch(run.guard, method, part="guard: judge")
        stopwatch.watch(run.ema, "update", part="ema")
        stopwatch.watch(run.optimizers, "grad_norms", part="logging: measure")
        for function in ("copied", "compare"):
            stopwatch.watch(measured, function, part="logging: measure")
        stopwatch.watch(loop, "log_step", part="logging: write")
        engine_side.serve(run, snapshots, give_back=options.give_back)


if __name__ == "__main__":
    main()
