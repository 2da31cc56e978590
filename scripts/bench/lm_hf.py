"""The other side of the language model's benchmark: transformers' Trainer on batches that are handed to it.

With 8 rows it pads them to the longest, as a padding collator does; with 1 it is what upstream's script does. Started
by lm.py.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import lm_workload as workload
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from worker import Finished, TimedBatches, begin, device_name, versions

ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
FIGURES = 6  # of a loss that is told


class Handed(Trainer):
    """Takes its batches from the benchmark."""

    batches: TimedBatches[dict[str, Tensor]]

    def get_train_dataloader(self) -> Any:
        return self.batches


class NoRows(torch.utils.data.IterableDataset[Any]):
    """Stands where Trainer wants a data set."""

    def __iter__(self) -> Iterator[Any]:
        return iter(())


def collate(rows: list[workload.Tokens], device: torch.device) -> dict[str, Tensor]:
    ids = [torch.from_numpy(row.ids) for row in rows]
    labels = [torch.from_numpy(row.labels) for row in rows]
    seen = [torch.ones(len(row.ids), dtype=torch.long) for row in rows]
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=workload.PAD).to(device),
        "attention_mask": pad_sequence(seen, batch_first=True).to(device),
        "labels": pad_sequence(labels, batch_first=True, padding_value=workload.IGNORED).to(device),
    }


def build_net(size: workload.Size) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=workload.VOCAB_SIZE,
            hidden_size=size.hidden,
            intermediate_size=size.intermediate,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            num_key_value_heads=size.key_value_heads,
            head_dim=size.head_dim,
            rms_norm_eps=1e-5,
            max_position_embeddings=131_072,
            rope_parameters=ROPE,
            tie_word_embeddings=True,
            bos_token_id=workload.BOS,
            eos_token_id=workload.EOS,
        )
    )


def main() -> None:
    options, answers = begin(workload.SIZES, "rows")

    size = workload.SIZES[options.size]
    net = build_net(size)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=options.rows,
            max_steps=workload.TOTAL_STEPS,
            learning_rate=workload.LR,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=workload.WARMUP_STEPS,
            weight_decay=workload.WEIGHT_DECAY,
            max_grad_norm=workload.MAX_GRAD_NORM,
            bf16=options.precision == "bf16",
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
        )
        trainer = Handed(model=net, args=arguments, train_dataset=NoRows())
        device = arguments.device
        drawn = workload.make_batches(size)
        together = [collate(rows, device) for rows in drawn]
        rows = [row for batch in drawn for row in batch]
        batches = [rows[start : start + options.rows] for start in range(0, len(rows), options.rows)]

        def loss(command: dict[str, Any]) -> dict[str, Any]:
            with torch.no_grad(), trainer.compute_loss_context_manager():
                value = trainer.model(**together[command["batch"]]).loss
            return {"loss": round(float(value), FIGURES)}

        trainer.batches = TimedBatches(
            [collate(batch, device) for batch in batches],
            frames=[sum(len(row.ids) for row in batch) for batch in batches],
            device=device,
            answers=answers,
            about={
                "device": device_name(device),
                "parameters": sum(parameter.numel() for parameter in net.parameters()),
                "versions": versions("transformers", "accelerate", "torch"),
            },
            between=loss,
        )
        with suppress(Finished):
            trainer.train()


if __name__ == "__main__":
    main()
