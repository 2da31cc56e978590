"""Adapters over the packed Llama against peft's own, and what they merge into."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaForCausalLM

from ttstrain.families.orpheus.config import LORA_TARGETS, OrpheusConfig
from ttstrain.families.orpheus.net import build_net, hidden_states
from ttstrain.modules import lora
from ttstrain.recipe.schema import LoraConfig

# Upstream's finetune/lora.py trains head and embedding whole besides the adapters.
ADAPTERS = LoraConfig(rank=4, alpha=8, rslora=True, unfrozen=["model.embed_tokens.weight", "lm_head.weight"])


@pytest.fixture(scope="module")
def folder(fixtures_dir: Path) -> Path:
    return fixtures_dir / "orpheus_lora"


@pytest.fixture(scope="module")
def net(folder: Path) -> LlamaForCausalLM:
    stated = json.loads((folder / "config.json").read_text())["model"]
    # Not validated: 96 tokens leave no room for audio.
    net = build_net(OrpheusConfig.model_construct(**stated, rope_scaling=None))
    net.load_state_dict(load_file(folder / "base_model.safetensors"))
    lora.add_lora(net, ADAPTERS, default_targets=LORA_TARGETS)
    adapter = load_file(folder / "adapter_model.safetensors")
    plain = {lora.plain_name(name): parameter for name, parameter in net.named_parameters()}
    with torch.no_grad():
        for name, value in adapter.items():
            plain[name.removeprefix("base_model.model.")].copy_(value)
    return net


def logits_of(net: LlamaForCausalLM, rows: Tensor) -> Tensor:
    """Lay rows (b, n) end to end; return logits (b, n, v)."""
    b, n = rows.shape
    starts = torch.arange(0, b * n + 1, n, dtype=torch.int32)
    states = hidden_states(net, rows.reshape(1, -1), torch.arange(n).repeat(b)[None], starts)
    logits: Tensor = net.lm_head(states)
    return logits.reshape(b, n, -1)


def test_loss_logits_and_gradients_are_peft_s(net: LlamaForCausalLM, folder: Path) -> None:
    rows = load_file(folder / "inputs.safetensors")["input_ids"]
    expected = load_file(folder / "expected.safetensors")
    norms = json.loads((folder / "grad_norms.json").read_text())["lora"]
    logits = logits_of(net, rows)
    torch.testing.assert_close(logits, expected["logits"], rtol=0, atol=2e-5)
    loss = F.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), rows[:, 1:].reshape(-1))
    torch.testing.assert_close(loss, expected["loss"], rtol=1e-6, atol=0)
    loss.backward()
    found = {lora.plain_name(name): float(p.grad.norm()) for name, p in net.named_parameters() if p.grad is not None}
    wanted = {
        lora.plain_name(name.removeprefix("base_model.model.").replace(".modules_to_save.default", "")): norm
        for name, norm in norms.items()
    }
    assert found == pytest.approx(wanted, rel=1e-4, abs=1e-9)


def test_merged_weights_are_peft_s_and_say_the_same(net: LlamaForCausalLM, folder: Path) -> None:
    expected = load_file(folder / "expected.safetensors")
    merged = lora.merged_state_dict(net)
    stated = {key.removeprefix("merged."): value for key, value in expected.items() if key.startswith("merged.")}
    assert stated
    for key, value in stated.items():
        torch.testing.assert_close(merged[key], value, rtol=0, atol=1e-6)
    plain = LlamaForCausalLM(net.config)
    plain.load_state_dict(merged)
    rows = load_file(folder / "inputs.safetensors")["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(logits_of(plain, rows), expected["merged_logits"], rtol=0, atol=2e-5)
