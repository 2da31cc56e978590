"""Our side of the VAE's benchmark: the task as recipes train it, on cached tokens. Started by vae.py."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import engine_side
import numpy as np
import torch
import vae_workload as workload
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from worker import begin

from ttstrain import registry
from ttstrain.families.gpt_sovits.batch import SovitsBatch, num_tokens
from ttstrain.families.gpt_sovits.vae.synthesizer import Synthesizer
from ttstrain.families.gpt_sovits.vae.training import vae_losses
from ttstrain.recipe.schema import Recipe
from ttstrain.train.device import choose_device
from ttstrain.train.snapshot import MemorySnapshots


def recipe_of(size: workload.Size, precision: str) -> Recipe:
    text = [f"vae.enc_p.{part}*" for part in ("text_embedding", "encoder_text", "mrte")]
    return Recipe.model_validate(
        {
            "name": "bench",
            "task": "gpt_sovits/vae",
            "model": {
                "features": {"quantizer": "no file: the tokens are this net's own"},
                "vae": {
                    "inter_channels": size.inter_channels,
                    "filter_channels": size.filter_channels,
                    "n_layers": size.n_layers,
                    "upsample_initial_channel": size.upsample_initial_channel,
                    "segment_size": size.segment_size,
                    "discriminator_channels": size.discriminator_channels,
                    "p_dropout": size.dropout,
                },
            },
            "optim": {
                "lr": workload.LR,
                "betas": workload.BETAS,
                "eps": workload.EPS,
                "weight_decay": workload.WEIGHT_DECAY,
                "decay_norms_and_biases": True,
                "max_grad_norm": None,
                "groups": [{"name": "text", "match": text, "lr_scale": workload.TEXT_LR_SCALE}],
                "schedule": {"kind": "constant", "warmup_steps": 0},
            },
            "train": {"precision": precision},
            "ema": {"enabled": False},  # upstream has none
            "tracking": {"wandb": "off"},
        }
    )


def collate(clips: list[workload.Clip], vae: Synthesizer) -> SovitsBatch:
    frames = tuple(clip.num_frames for clip in clips)
    return SovitsBatch(
        ids=tuple(f"clip-{number}" for number in range(len(clips))),
        weight=float(len(clips)),
        num_frames=sum(frames),
        num_padded=workload.width(clips) * len(clips),
        phones=pad_sequence([torch.from_numpy(clip.phones) for clip in clips], batch_first=True),
        phone_lengths=tuple(len(clip.phones) for clip in clips),
        bert=None,
        codes=vae.encode(padded_ssl(clips).to(vae.ssl_proj.weight.device)).cpu(),
        code_lengths=tuple(map(num_tokens, frames)),
        wav=pad_sequence([torch.from_numpy(clip.wav) for clip in clips], batch_first=True),
        wav_lengths=tuple(len(clip.wav) for clip in clips),
        frame_lengths=frames,
        ssl=None,
        speaker=None,
    )


def padded_ssl(clips: list[workload.Clip]) -> Tensor:
    width = workload.width(clips)
    return torch.from_numpy(np.stack([np.pad(clip.ssl, ((0, 0), (0, width - clip.num_frames))) for clip in clips]))


def main() -> None:
    options, answers = begin(workload.SIZES)

    size = workload.SIZES[options.size]
    recipe = engine_side.resolved(recipe_of(size, options.precision))
    device = choose_device("auto", tf32=True)
    spec = registry.find_task(recipe.task)
    task: Any = spec.build(recipe.model).to(device)
    task.train()
    batches = [collate(clips, task.vae).to(device) for clips in workload.make_batches(size)]

    def losses(command: dict[str, Any]) -> dict[str, Any]:
        """Load the other side's weights and say both losses of a batch, its draws pinned and without dropout."""
        state = torch.load(command["weights"], weights_only=True)
        own = {name: value.clone() for name, value in task.state_dict().items()}
        task.load_state_dict(state)
        task.eval()
        batch = replace(collate(workload.make_batches(size)[0], task.vae).to(device), segment_starts=(0,) * size.clips)
        noise = torch.zeros(size.clips, size.inter_channels, 2 * batch.codes.shape[1], device=device)
        with torch.no_grad():
            values = [float(loss.value) for loss in vae_losses(task.parts, batch, updates="generator", noise=noise)]
        task.train()
        task.load_state_dict(own)
        return {"losses": values}

    with tempfile.TemporaryDirectory() as name:
        run = engine_side.make_run(
            task,
            recipe,
            functools.partial(engine_side.Batches, answers=answers, between=losses),
            batches,
            steps=workload.TOTAL_STEPS,
            folder=Path(name),
            device=device,
            packages=[],
        )
        engine_side.serve(run, MemorySnapshots(), give_back=options.give_back)


if __name__ == "__main__":
    main()
