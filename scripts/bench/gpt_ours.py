"""Our side of the GPT's benchmark: the task as recipes train it, nothing padded. Started by gpt.py."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import engine_side
import gpt_workload as workload
import torch
from torch.nn.utils.rnn import pad_sequence
from worker import begin

from ttstrain import registry
from ttstrain.families.gpt_sovits.batch import SovitsBatch
from ttstrain.recipe.schema import Recipe
from ttstrain.train.device import choose_device
from ttstrain.train.snapshot import MemorySnapshots


def recipe_of(size: workload.Size, precision: str) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "bench",
            "task": "gpt_sovits/gpt",
            "model": {
                "features": {"quantizer": "package:toy"},
                "gpt": {
                    "embedding_dim": size.width,
                    "hidden_dim": size.width,
                    "head": size.heads,
                    "n_layer": size.layers,
                    "dropout": workload.DROPOUT,
                },
            },
            "optim": {
                "kind": "scaled_adam",
                "lr": workload.LR,
                "betas": workload.BETAS,
                "weight_decay": 0.0,
                "max_grad_norm": None,
                "schedule": {"kind": "constant", "warmup_steps": 0},
            },
            "train": {"precision": precision, "accumulate": workload.ACCUMULATE},
            "ema": {"enabled": False},
            "tracking": {"wandb": "off"},
        }
    )


def collate(clips: list[workload.Clip]) -> SovitsBatch:
    phones = [torch.from_numpy(clip.phones) for clip in clips]
    codes = [torch.from_numpy(clip.codes) for clip in clips]
    rows = workload.num_rows(clips)
    return SovitsBatch(
        ids=tuple(f"clip-{number}" for number in range(len(clips))),
        weight=float(len(clips)),
        num_frames=rows,
        num_padded=rows,
        phones=pad_sequence(phones, batch_first=True),
        phone_lengths=tuple(map(len, phones)),
        bert=None,
        codes=pad_sequence(codes, batch_first=True),
        code_lengths=tuple(map(len, codes)),
        wav=None,
        frame_lengths=tuple(2 * len(row) for row in codes),
        ssl=None,
        speaker=None,
    )


def main() -> None:
    options, answers = begin(workload.SIZES)

    recipe = engine_side.resolved(recipe_of(workload.SIZES[options.size], options.precision))
    device = choose_device("auto", tf32=True)
    spec = registry.find_task(recipe.task)
    task = spec.build(recipe.model).to(device)
    task.train()
    batches = [collate(clips).to(device) for clips in workload.make_batches(workload.SIZES[options.size])]

    def loss(command: dict[str, Any]) -> dict[str, Any]:
        """Load the other side's weights and say the sum over a batch that holds no padding."""
        state = torch.load(command["weights"], weights_only=True)
        own = {name: value.clone() for name, value in task.gpt.state_dict().items()}
        task.gpt.load_state_dict(state)
        task.eval()
        alone = collate(workload.make_batches(workload.SIZES[options.size])[0][:1]).to(device)
        with torch.no_grad():
            value = next(task.losses(task.draw(alone))).value * task.draw(alone).weight
        task.train()
        task.gpt.load_state_dict(own)
        return {"loss": float(value)}

    with tempfile.TemporaryDirectory() as name:
        run = engine_side.make_run(
            task,
            recipe,
            functools.partial(engine_side.Batches, answers=answers, between=loss),
            batches,
            steps=workload.TOTAL_STEPS,
            folder=Path(name),
            device=device,
            packages=[],
        )
        engine_side.serve(run, MemorySnapshots(), give_back=options.give_back)


if __name__ == "__main__":
    main()
