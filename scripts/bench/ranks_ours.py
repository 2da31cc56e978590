"""One of several processes that train F5 together, or one that trains it alone. Started by ranks.py."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import engine_side
import torch
import workload
from ours import EMA_DECAY, collate, recipe_of
from worker import begin

from ttstrain import registry
from ttstrain.train.device import choose_device
from ttstrain.train.distributed import Ranks, join, leave
from ttstrain.train.snapshot import MemorySnapshots


def share_of(ranks: Ranks, batches: list[workload.Clips]) -> list[workload.Clips]:
    """Return a rank's batches: the ranks take turns in the stream in which the batches repeat."""
    return [batches[(step * ranks.world_size + ranks.rank) % len(batches)] for step in range(len(batches))]


def main() -> None:
    options, answers = begin(workload.SIZES, "accumulate")
    size = workload.SIZES[options.size]
    recipe = recipe_of(size, options.precision)
    train = recipe.train.model_copy(update={"accumulate": options.accumulate})
    resolved = engine_side.resolved(recipe.model_copy(update={"train": train}))
    ranks = join()
    device = choose_device("auto", tf32=True, ranks=ranks)
    spec = registry.find_task(resolved.task)
    task = spec.build(resolved.model).to(device)
    task.train()
    task_data = spec.data(resolved.model)
    with tempfile.TemporaryDirectory() as folder:
        run = engine_side.make_run(
            task,
            resolved,
            functools.partial(engine_side.Batches, answers=answers),
            [collate(task_data, clips, device) for clips in share_of(ranks, workload.make_batches(size))],
            steps=workload.TOTAL_STEPS,
            folder=Path(folder),
            device=device,
            ema_decay=EMA_DECAY,
            ranks=ranks,
        )
        torch.manual_seed(ranks.rank)  # as in a run, where noise is each rank's own
        engine_side.serve(run, MemorySnapshots(), give_back=options.give_back)
    leave()


if __name__ == "__main__":
    main()
