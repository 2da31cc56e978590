"""The packed Llama against transformers' own on a padded batch, and two of its Trainer's runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ttstrain.families.orpheus.batch import IGNORED, SPEECH, OrpheusBatch
from ttstrain.families.orpheus.config import OrpheusConfig
from ttstrain.families.orpheus.ids import CODEBOOK_SIZE, PUBLISHED
from ttstrain.families.orpheus.net import hidden_states
from ttstrain.families.orpheus.task import OrpheusTask
from ttstrain.train.evaluation_loop import evaluating

CONFIG = OrpheusConfig(
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16
)


@pytest.fixture(scope="module")
def folder(fixtures_dir: Path) -> Path:
    found = fixtures_dir / "orpheus_llama"
    if not found.is_dir():
        pytest.skip("the packed fixtures have no room for `orpheus_llama`: needs the full set")
    return found


@pytest.fixture(scope="module")
def published(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the fixture's net as a folder with two shards."""
    out = tmp_path_factory.mktemp("orpheus") / "hf"
    subprocess.run([sys.executable, str(folder / "materialise.py"), str(out)], check=True)
    return out


@pytest.fixture(scope="module")
def task(published: Path) -> OrpheusTask:
    task = OrpheusTask(CONFIG)
    tensors = {key: value for file in sorted(published.glob("*.safetensors")) for key, value in load_file(file).items()}
    task.net.load_state_dict({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]})
    return task


def packed(rows: Sequence[Tensor]) -> OrpheusBatch:
    """Lay rows end to end; every token but the first is learned, as upstream does."""
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int32)
    ids = torch.cat(list(rows))[None]
    labels = torch.cat([torch.cat([torch.tensor([IGNORED]), row[1:]]) for row in rows])[None]
    slots = torch.where(ids >= PUBLISHED.first_audio, (ids - PUBLISHED.first_audio) // CODEBOOK_SIZE, -1)
    slots = torch.where(ids == PUBLISHED.eos, 7, slots)
    return OrpheusBatch(
        ids=[str(i) for i in range(len(rows))],
        input_ids=ids,
        labels=labels,
        position_ids=torch.cat([torch.arange(len(row)) for row in rows])[None],
        documents=torch.arange(len(rows)).repeat_interleave(lengths)[None].int(),
        cu_seqlens=torch.cat([torch.zeros(1), lengths.cumsum(0)]).int(),
        is_audio_slot=slots.to(torch.int8),
        modality=torch.full((len(rows),), SPEECH, dtype=torch.int8),
        weight=float((labels != IGNORED).sum()),
        num_frames=ids.shape[1],
        num_padded=ids.shape[1],
    )


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[Tensor]:
    inputs = load_file(folder / "inputs.safetensors")
    lengths = inputs["attention_mask"].sum(1).tolist()
    return [row[:length] for row, length in zip(inputs["input_ids"], lengths, strict=True)]


def test_loss_and_gradients_are_transformers_own(task: OrpheusTask, rows: list[Tensor], folder: Path) -> None:
    expected = load_file(folder / "expected.safetensors")
    norms = json.loads((folder / "grad_norms.json").read_text())
    task.zero_grad()
    (loss,) = task.losses(packed(rows))
    loss.value.backward()
    torch.testing.assert_close(loss.value, expected["loss"], rtol=1e-6, atol=0)
    found = {name: float(p.grad.norm()) for name, p in task.net.named_parameters() if p.grad is not None}
    assert found == pytest.approx(norms["per_param"], rel=1e-4)


def test_states_and_logits_are_transformers_own(task: OrpheusTask, rows: list[Tensor], folder: Path) -> None:
    expected = load_file(folder / "expected.safetensors")
    batch = packed(rows)
    with torch.no_grad():
        states = hidden_states(task.net, batch.input_ids, batch.position_ids, batch.cu_seqlens)
        logits = states @ task.net.lm_head.weight[expected["cols"]].t()
    starts = batch.cu_seqlens.tolist()
    for i, row in enumerate(rows):
        own = slice(starts[i], starts[i + 1])
        torch.testing.assert_close(states[own], expected["final_hidden"][i, : len(row)], rtol=0, atol=2e-5)
        torch.testing.assert_close(logits[own], expected["logits_cols"][i, : len(row)], rtol=0, atol=7e-5)


def test_every_token_s_loss_is_transformers_own(task: OrpheusTask, rows: list[Tensor], folder: Path) -> None:
    expected = load_file(folder / "expected.safetensors")
    for i, row in enumerate(rows):
        batch = packed([row])
        with evaluating(task):
            values = task.evaluate(batch, torch.Generator())
        mean = expected["token_loss"][i, : len(row)].sum() / (len(row) - 1)
        torch.testing.assert_close(values["total"], mean, rtol=1e-6, atol=0)


def test_rotary_tables_are_llama_3s(task: OrpheusTask, folder: Path) -> None:
    expected = load_file(folder / "expected.safetensors")
    rotary = task.net.model.rotary_emb
    torch.testing.assert_close(rotary.inv_freq, expected["rope.inv_freq"], rtol=1e-6, atol=0)
    cos, sin = rotary(torch.zeros(1), expected["rope.positions"])
    torch.testing.assert_close(cos, expected["rope.cos"], rtol=0, atol=1e-6)
    torch.testing.assert_close(sin, expected["rope.sin"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("run", ["bs1", "bs2_accum2"])
def test_a_training_run_is_the_hugging_face_trainer_s(run: str, published: Path, folder: Path) -> None:
    """Losses, gradient norms and final weights of its Trainer, with AdamW and a linear LR."""
    trace: Mapping[str, Any] = json.loads((folder / "trainer_trace.json").read_text())[run]
    train_rows = json.loads((folder / "train_rows.json").read_text())
    tokens = [torch.tensor(row["input_ids"] if isinstance(row, dict) else row) for row in train_rows]
    task = OrpheusTask(CONFIG)
    tensors = {key: value for file in sorted(published.glob("*.safetensors")) for key, value in load_file(file).items()}
    task.net.load_state_dict({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]})
    optimizer = torch.optim.AdamW(task.parameters(), lr=trace["learning_rate"], weight_decay=0.0, fused=True)
    size = trace["args"]["per_device_train_batch_size"]
    order = trace["item_order"]
    epoch = len(tokens)
    micro = [
        order[i : min(i + size, e + epoch)] for e in range(0, len(order), epoch) for i in range(e, e + epoch, size)
    ]
    per_epoch = -(-epoch // size)
    accumulate = trace["args"].get("gradient_accumulation_steps", 1)
    steps = [
        micro[e + i : min(e + i + accumulate, e + per_epoch)]
        for e in range(0, len(micro), per_epoch)
        for i in range(0, per_epoch, accumulate)
    ]
    assert len(steps) == len(trace["log"])
    for pieces, logged in zip(steps, trace["log"], strict=True):
        batches = [packed([tokens[i] for i in piece]) for piece in pieces]
        total = sum(batch.weight for batch in batches)
        loss = 0.0
        for batch in batches:
            (found,) = task.losses(batch)
            (found.value * (batch.weight / total)).backward()
            loss += found.value.item() * batch.weight / total
        norm = torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = logged["learning_rate"]
        optimizer.step()
        optimizer.zero_grad()
        assert loss == pytest.approx(logged["loss"], rel=1e-5)
        assert float(norm) == pytest.approx(logged["grad_norm"], rel=1e-4)
    for name, parameter in task.net.named_parameters():
        total, norm = trace["final_norms"][name]
        assert float(parameter.detach().double().norm()) == pytest.approx(norm, rel=1e-5)
        slack = 0.2 * trace["learning_rate"] * len(steps) * parameter.numel() ** 0.5
        assert float(parameter.double().sum()) == pytest.approx(total, abs=slack)
