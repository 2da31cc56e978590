"""The upstream side of the step benchmark: F5-TTS's own `Trainer.train`, on batches that are handed to it.

Runs under a Python that has f5-tts from PyPI; started by step.py.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
import workload
from f5_tts.model import CFM, DiT, Trainer, trainer
from torch.nn.utils.rnn import pad_sequence
from worker import Finished, TimedBatches, begin, device_name, versions

EMA_STEP = 1_250_000  # of the published weights; loading them loads this counter too


class Batches(TimedBatches[dict[str, Any]]):
    """Stands in for the DataLoader; the trainer asks for its length to plan the schedule."""

    def __len__(self) -> int:
        return workload.TOTAL_STEPS


def collate(clips: workload.Clips, device: torch.device) -> dict[str, Any]:
    mels = [torch.from_numpy(mel) for mel in clips.mels]
    return {
        "mel": pad_sequence(mels, batch_first=True).transpose(1, 2).contiguous().to(device),  # (b, m, n)
        "mel_lengths": torch.tensor([len(mel) for mel in mels], device=device),
        "text": clips.texts,
        "text_lengths": torch.tensor([len(text) for text in clips.texts], device=device),
    }


def build(size: workload.Size, precision: str, folder: Path) -> Trainer:
    tokens = workload.vocab()
    net = DiT(
        dim=size.dim,
        depth=size.depth,
        heads=size.heads,
        ff_mult=size.ff_mult,
        text_dim=size.text_dim,
        conv_layers=size.conv_layers,
        dropout=workload.DROPOUT,
        text_num_embeds=len(tokens),
        mel_dim=workload.N_MELS,
    )
    model = CFM(net, mel_spec_kwargs={}, vocab_char_map={token: index for index, token in enumerate(tokens)})
    built = Trainer(
        model,
        epochs=1,
        learning_rate=workload.LR,
        num_warmup_updates=workload.WARMUP_STEPS,
        save_per_updates=10**9,
        checkpoint_path=str(folder / "checkpoints"),
        max_grad_norm=workload.MAX_GRAD_NORM,
        logger=None,
        accelerate_kwargs={"mixed_precision": {"fp32": "no"}.get(precision, precision)},
    )
    built.ema_model.initted.fill_(True)
    built.ema_model.step.fill_(EMA_STEP)
    return built


def main() -> None:
    options, answers = begin(workload.SIZES)

    size = workload.SIZES[options.size]
    with tempfile.TemporaryDirectory() as folder:
        built = build(size, options.precision, Path(folder))
        device = built.accelerator.device
        clips = workload.make_batches(size)
        batches = Batches(
            [collate(batch, device) for batch in clips],
            frames=[batch.num_frames for batch in clips],
            device=device,
            answers=answers,
            about={
                "device": device_name(device),
                "parameters": sum(parameter.numel() for parameter in built.model.parameters()),
                "versions": versions("f5-tts", "torch", "accelerate", "ema-pytorch", "x-transformers"),
            },
        )
        trainer.DataLoader = lambda dataset, **_: dataset
        try:
            built.train(batches)
        except Finished:
            built.accelerator.end_training()


if __name__ == "__main__":
    main()
