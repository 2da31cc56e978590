"""Folders that peft has written are read as the model that peft makes of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from small_orpheus import CONFIG, logits_of, write_model
from transformers import LlamaForCausalLM

from ttstrain.checkpoint.upstream import open_checkpoint, resolve_base
from ttstrain.errors import CheckpointError
from ttstrain.families.orpheus import peft_folder
from ttstrain.families.orpheus.task import OrpheusTask
from ttstrain.tensors.contents import read_contents
from ttstrain.tensors.loading import load_weights
from ttstrain.tensors.tensorfile import StoredTensor

TOKENS = [262, 256, 7, 8, 9, 258, 263, 264, 260, 300, 4500]
LAYERS = ["q_proj", "down_proj"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("base") / "model")


def written(base: Path, folder: Path, **settings: Any) -> PeftModel:
    """Let peft adapt the base, move what it trains, and save."""
    net = LlamaForCausalLM.from_pretrained(base)
    settings = {"r": 4, "lora_alpha": 6, "target_modules": LAYERS, "task_type": "CAUSAL_LM", **settings}
    model = get_peft_model(net, LoraConfig(**settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize(
    ("settings", "tied"),
    [
        ({}, True),
        ({"use_rslora": True}, True),
        ({"use_dora": True}, True),
        ({"modules_to_save": ["lm_head", "embed_tokens"]}, False),  # upstream's finetune/lora.py
        ({"modules_to_save": ["embed_tokens"]}, False),
        ({"modules_to_save": ["lm_head"]}, False),
        ({"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True, "use_dora": True}, True),
    ],
)
def test_a_folder_is_the_model_that_peft_makes_of_it(
    base: Path, tmp_path: Path, settings: dict[str, Any], tied: bool
) -> None:
    model = written(base, tmp_path / "adapter", **settings)
    opened = open_checkpoint(resolve_base(str(tmp_path / "adapter")), task="orpheus")
    assert (opened.kind, opened.config["tie_word_embeddings"]) == ("adapter", tied)
    task = OrpheusTask(CONFIG.model_copy(update={"tie_word_embeddings": tied})).eval()
    load_weights(task, task.fitted(opened).weights, source="adapter")
    task.net.set_attn_implementation("sdpa")
    torch.testing.assert_close(logits_of(task.net, TOKENS), logits_of(model, TOKENS), rtol=0, atol=2e-5)
    assert any("over `" in note for note in opened.notes)


def test_the_fixture_s_adapter_merges_into_what_peft_merged(fixtures_dir: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(fixtures_dir / "orpheus_lora", tmp_path / "lora"))
    stated = json.loads((folder / peft_folder.SETTINGS).read_text())
    (folder / peft_folder.SETTINGS).chmod(0o644)
    (folder / peft_folder.SETTINGS).write_text(json.dumps({**stated, "base_model_name_or_path": "base"}))
    settings = peft_folder.read_settings(folder / peft_folder.WEIGHTS)
    assert settings.scaling == 8 / 4**0.5
    trees = [read_contents(folder / name).tree for name in ("base_model.safetensors", peft_folder.WEIGHTS)]
    assert all(isinstance(tree, dict) for tree in trees)
    stored: dict[str, StoredTensor] = {f"net.{key}": value for key, value in trees[0].items()}
    merged = peft_folder.lay_over(stored, trees[1], settings)
    expected = load_file(folder / "expected.safetensors")
    stated_keys = [key for key in expected if key.startswith("merged.")]
    assert stated_keys
    for key in stated_keys:
        name = f"net.{key.removeprefix('merged.')}"
        torch.testing.assert_close(merged[name].read(), expected[key], rtol=0, atol=1e-6)


# ---------------------------------------------------------------- what is refused


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    written(base, tmp_path / "adapter")
    return tmp_path / "adapter"


def change(folder: Path, **changes: Any) -> None:
    file = folder / peft_folder.SETTINGS
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "said", "hint"),
    [
        ({"base_model_name_or_path": None}, "does not name the adapter's base model", "base_model_name_or_path"),
        ({"base_model_name_or_path": "somebody/orpheus"}, "is not on this machine", "merge_and_unload"),
        ({"base_model_name_or_path": "/nowhere/model"}, "is not on this machine", "base_model_name_or_path"),
        ({"peft_type": "LOHA"}, "of type LOHA; only LORA", "merge_and_unload"),
        ({"rank_pattern": {"q_proj": 8}}, "sets `rank_pattern`", "merge_and_unload"),
        ({"bias": "all"}, "sets `bias`", "merge_and_unload"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_way_out(
    folder: Path, changes: dict[str, Any], said: str, hint: str
) -> None:
    change(folder, **changes)
    with pytest.raises(CheckpointError, match=said) as caught:
        open_checkpoint(resolve_base(str(folder)))
    assert hint in str(caught.value.hint)


def test_an_adapter_without_its_settings_is_said(folder: Path) -> None:
    (folder / peft_folder.SETTINGS).unlink()
    with pytest.raises(CheckpointError, match=r"its `adapter_config\.json` is missing"):
        open_checkpoint(resolve_base(str(folder)))


def test_an_adapter_of_another_architecture_is_not_half_used(folder: Path, base: Path, tmp_path: Path) -> None:
    smaller = write_model(tmp_path / "smaller", num_hidden_layers=1)
    change(folder, base_model_name_or_path=str(smaller))
    with pytest.raises(CheckpointError, match=r"has no layer for `.*layers\.1\."):
        open_checkpoint(resolve_base(str(folder)))


def test_a_base_is_found_beside_its_adapter(folder: Path, base: Path) -> None:
    shutil.copytree(base, folder.parent / "model")
    change(folder, base_model_name_or_path="../model")
    assert open_checkpoint(resolve_base(str(folder))).kind == "adapter"
