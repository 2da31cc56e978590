"""Our side of the language model's benchmark: the task as recipes train it, rows packed. Started by lm.py."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import engine_side
import lm_workload as workload
import torch
from worker import begin

from ttstrain import registry
from ttstrain.families.orpheus.batch import OrpheusBatch
from ttstrain.families.orpheus.ids import PUBLISHED
from ttstrain.families.orpheus.rows import pack, row_of
from ttstrain.recipe.schema import Recipe
from ttstrain.train.device import choose_device
from ttstrain.train.snapshot import MemorySnapshots

FIGURES = 6  # of a loss that is told


def recipe_of(size: workload.Size, precision: str) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "bench",
            "task": "orpheus",
            "model": {
                "hidden_size": size.hidden,
                "intermediate_size": size.intermediate,
                "num_hidden_layers": size.layers,
                "num_attention_heads": size.heads,
                "num_key_value_heads": size.key_value_heads,
                "head_dim": size.head_dim,
            },
            "optim": {
                "lr": workload.LR,
                "weight_decay": workload.WEIGHT_DECAY,
                "max_grad_norm": workload.MAX_GRAD_NORM,
                "schedule": {"kind": "constant", "warmup_steps": workload.WARMUP_STEPS, "warmup_start": 0.0},
            },
            "train": {"precision": precision},
            "ema": {"enabled": False},
            "tracking": {"wandb": "offline"},
        }
    )


def collate(rows: list[workload.Tokens]) -> OrpheusBatch:
    made = []
    for number, row in enumerate(rows):
        masked = int((row.labels == workload.IGNORED).sum())
        made.append(row_of(f"row-{number}", torch.from_numpy(row.ids), PUBLISHED, masked=masked))
    return pack(made)


def main() -> None:
    options, answers = begin(workload.SIZES)

    recipe = engine_side.resolved(recipe_of(workload.SIZES[options.size], options.precision))
    device = choose_device("auto", tf32=True)
    spec = registry.find_task(recipe.task)
    task = spec.build(recipe.model).to(device)
    task.train()
    batches = [collate(rows).to(device) for rows in workload.make_batches(workload.SIZES[options.size])]

    def loss(command: dict[str, Any]) -> dict[str, Any]:
        with torch.no_grad(), run.precision.autocast():
            value = next(task.losses(batches[command["batch"]])).value
        return {"loss": round(float(value), FIGURES)}

    with tempfile.TemporaryDirectory() as name:
        run = engine_side.make_run(
            task,
            recipe,
            functools.partial(engine_side.Batches, answers=answers, between=loss),
            batches,
            steps=workload.TOTAL_STEPS,
            folder=Path(name),
            device=device,
            packages=["transformers"],
        )
        engine_side.serve(run, MemorySnapshots(), give_back=options.give_back)


if __name__ == "__main__":
    main()
