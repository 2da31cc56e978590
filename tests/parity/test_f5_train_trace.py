"""A whole training run of upstream's `Trainer`, step by step, with its draws."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ttstrain.families.flow.config import FlowConfig
from ttstrain.families.flow.data import FlowData, FlowExample
from ttstrain.families.flow.model.cfm import FlowDraws, spans
from ttstrain.families.flow.task import FlowTask


def upstream_lr(update: int, *, peak: float, warmup: int, total: int) -> float:
    if update <= warmup:
        return peak * (1e-8 + (1 - 1e-8) * update / warmup)
    return peak * (1 + (1e-8 - 1) * min(1.0, (update - warmup) / (total - warmup)))


def is_key_bias(name: str) -> bool:
    return name.endswith("to_k.bias")  # its gradient is rounding only, which Adam blows up


def test_replayed_run_ends_where_upstreams_did(fixtures_dir: Path, tmp_path: Path) -> None:
    folder = fixtures_dir / "f5_train_trace"
    upstream = json.loads((folder / "config.json").read_text())
    trace = json.loads((folder / "trace.json").read_text())
    given = load_file(folder / "inputs.safetensors")
    expected = load_file(folder / "expected.safetensors")

    vocab = tmp_path / "vocab.txt"
    vocab.write_text("".join(f"{token}\n" for token in upstream["vocab"]))
    arch = {key: value for key, value in upstream["arch"].items() if key != "mel_dim"}
    config = FlowConfig(**arch, vocab=str(vocab), tokenizer="custom")
    data, task = FlowData(config), FlowTask(config)
    task.load_state_dict({k.removeprefix("init."): v for k, v in expected.items() if k.startswith("init.")})
    optimizer = torch.optim.AdamW(task.parameters(), lr=upstream["lr"], weight_decay=0.01)
    average = task.state_dict()

    for k, step in enumerate(trace):
        batch = data.collate(
            [
                FlowExample(
                    id=str(item),
                    mel=given[f"mel.{item}"].T,
                    text=torch.tensor(data.vocab.encode(upstream["texts"][item])),
                )
                for item in step["batch"]
            ]
        )
        assert batch.mel.shape[1] == step["padded_frames"]
        start, end = spans(
            batch.mel_lengths,
            fraction=given[f"step{k}.frac_lengths"],
            position=given[f"step{k}.span_rand"],
            kind="upstream",
        )
        draws = FlowDraws(
            span_start=start,
            span_end=end,
            drop_audio=torch.full((len(batch.ids),), step["drop_audio"]),
            drop_text=torch.full((len(batch.ids),), step["drop_text"]),
            noise=given[f"step{k}.x0"],
            time=given[f"step{k}.time"],
        )
        batch = replace(batch, draws=draws, weight=float((end - start).sum()))
        (loss,) = task.losses(batch)
        loss.value.backward()
        assert float(loss.value.detach()) == pytest.approx(step["loss"], rel=1e-4), k
        norm = torch.nn.utils.clip_grad_norm_(task.parameters(), upstream["maxnorm"])
        assert float(norm) == pytest.approx(step["grad_norm"], rel=1e-3), k
        optimizer.param_groups[0]["lr"] = upstream_lr(
            k, peak=upstream["lr"], warmup=upstream["warmup"], total=len(trace)
        )
        optimizer.step()
        optimizer.zero_grad()
        if k % 10 == 0:  # ema-pytorch copies every tenth update until the hundredth
            average = {name: value.clone() for name, value in task.state_dict().items()}

    atol = 0.2 * upstream["lr"] * len(trace) / 10
    for name, value in task.state_dict().items():
        if not is_key_bias(name):
            torch.testing.assert_close(value, expected[f"final.{name}"], rtol=0, atol=atol, msg=name)
            torch.testing.assert_close(
                average[name], expected[f"ema_final.ema_model.{name}"], rtol=0, atol=atol, msg=name
            )
