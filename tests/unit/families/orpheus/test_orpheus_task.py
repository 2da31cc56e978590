"""What the task reports, refuses and takes from a base."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_orpheus import NET, write_model
from transformers import GPT2Config, GPT2LMHeadModel

from ttstrain.checkpoint.upstream import open_checkpoint, resolve_base
from ttstrain.errors import CheckpointError, RecipeError
from ttstrain.families.orpheus.batch import OrpheusBatch
from ttstrain.families.orpheus.config import OrpheusConfig
from ttstrain.families.orpheus.data_config import RowsConfig
from ttstrain.families.orpheus.net import build_net
from ttstrain.families.orpheus.planner import OrpheusPlanner
from ttstrain.families.orpheus.rows import TokenRow, answer_row, pack, speech_row
from ttstrain.families.orpheus.task import SLOTS, OrpheusTask
from ttstrain.families.orpheus.tokenizer import TOY, load_tokenizer
from ttstrain.modules import lora
from ttstrain.recipe.schema import LoraConfig
from ttstrain.tensors.loading import load_weights
from ttstrain.train.evaluation_loop import evaluating

SECTION: dict[str, Any] = {**NET, "rows": RowsConfig(tokenizer=TOY, codec=TOY)}
CONFIG = OrpheusConfig(**SECTION)


def speech(name: str, frames: int) -> TokenRow:
    return speech_row(name, [1, 2, 3], torch.randint(4096, (frames, 7)), CONFIG.ids)


def batch() -> OrpheusBatch:
    return pack([speech("a", 3), answer_row("b", [4, 5], [6, 7, 8], CONFIG.ids, labels="speech"), speech("c", 2)])


# ---------------------------------------------------------------- what it reports


def test_kinds_of_tokens_are_counted_and_add_up_to_the_loss() -> None:
    task = OrpheusTask(CONFIG)
    (loss,) = task.losses(batch())
    means = {name: mean for name, mean in loss.metrics.items() if name.startswith("nll_")}
    counts = {name.removeprefix("nll_"): int(mean.count) for name, mean in means.items()}
    assert counts == {"text": 3 + 1, **dict.fromkeys(SLOTS, 5), "eos": 2, "control": 2 * 3 + 2}  # EOT is text
    total = sum(mean.total for mean in means.values())
    torch.testing.assert_close(total / sum(counts.values()), loss.value, rtol=1e-5, atol=0)


def test_an_evaluation_tells_speech_from_text() -> None:
    task = OrpheusTask(CONFIG)
    whole = batch()
    with evaluating(task):
        values = task.evaluate(whole, torch.Generator())
        text = task.evaluate(pack([answer_row("b", [4, 5], [6, 7, 8], CONFIG.ids, labels="speech")]), torch.Generator())
    speech_rows, text_rows = values["speech_rows"], values["text_rows"]
    assert int(speech_rows.count) + int(text_rows.count) == int(whole.weight)
    torch.testing.assert_close(text_rows.total / text_rows.count, text["total"], rtol=1e-5, atol=0)


def test_a_reported_loss_is_the_plain_one_whatever_is_descended() -> None:
    plain = OrpheusTask(CONFIG)
    other = OrpheusTask(
        CONFIG.model_copy(update={"loss": CONFIG.loss.model_copy(update={"slot_loss": 1.0, "z_loss": 0.1})})
    )
    other.load_state_dict(plain.state_dict())
    given = batch()
    (one,), (two,) = plain.losses(given), other.losses(given)
    assert one.value.item() != pytest.approx(two.value.item(), rel=0.01)
    for name, mean in one.metrics.items():
        torch.testing.assert_close(two.metrics[name].total, mean.total, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(other.evaluate(given, torch.Generator())["total"], one.value, rtol=1e-5, atol=0)


def test_guessing_is_said_and_a_fresh_net_is_not() -> None:
    task = OrpheusTask(CONFIG)
    assert task.remarks(dict.fromkeys(SLOTS, math.log(28_943)), step=0) == []
    assert "all slots" in task.remarks(dict.fromkeys(SLOTS, 8.4), step=100)[0]
    (said,) = task.remarks({**dict.fromkeys(SLOTS, 5.0), "slot3": 9.0}, step=100)
    assert said.startswith("slot3:")
    assert "right slots" in task.remarks(dict.fromkeys(SLOTS, 7.0), step=0)[0]
    assert task.remarks(dict.fromkeys(SLOTS, 7.0), step=100) == []
    assert task.remarks({"total": 3.0}, step=5) == []


# ---------------------------------------------------------------- adapters


def test_an_adapted_head_is_refused_since_the_loss_would_not_see_it() -> None:
    config = CONFIG.model_copy(update={"tie_word_embeddings": False})
    task = OrpheusTask(config)
    lora.add_lora(task, LoraConfig(rank=2, targets=["*lm_head"]))
    with pytest.raises(RecipeError, match="LoRA cannot adapt `lm_head`"):
        next(task.losses(batch()))


def test_adapters_over_bf16_weights_are_in_float32_and_learn() -> None:
    task = OrpheusTask(CONFIG.model_copy(update={"param_dtype": "bf16"}))
    lora.add_lora(task, LoraConfig(rank=2, dora=True), default_targets=OrpheusPlanner(CONFIG).lora_targets())
    types = {lora.is_adapter(name): set[torch.dtype]() for name, _ in task.named_parameters()}
    for name, parameter in task.named_parameters():
        types[lora.is_adapter(name)].add(parameter.dtype)
    assert types == {True: {torch.float32}, False: {torch.bfloat16}}
    with torch.autocast("cpu", torch.bfloat16):
        (loss,) = task.losses(batch())
    loss.value.backward()
    ups = [parameter.grad for name, parameter in task.named_parameters() if ".lora_B." in name]
    assert all(gradient is not None and float(gradient.abs().sum()) > 0 for gradient in ups)


def test_a_tied_matrix_that_is_trained_whole_stays_one_matrix() -> None:
    task = OrpheusTask(CONFIG)
    lora.add_lora(
        task, LoraConfig(rank=2, unfrozen=["*embed_tokens*"]), default_targets=OrpheusPlanner(CONFIG).lora_targets()
    )
    assert task.net.lm_head.weight is task.net.model.embed_tokens.weight
    (loss,) = task.losses(batch())
    loss.value.backward()
    assert task.net.lm_head.weight.grad is not None
    assert "net.lm_head.weight" not in lora.merged_state_dict(task)


# ---------------------------------------------------------------- bases


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small model as transformers writes it, in several shards."""
    torch.manual_seed(1)
    out = tmp_path_factory.mktemp("hf") / "model"
    build_net(CONFIG).save_pretrained(out, max_shard_size="1MB")
    (out / "tokenizer.json").write_text(load_tokenizer(TOY).to_json(), encoding="utf-8")
    return out


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "model"))


def change_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    settings = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))


def test_shards_of_a_folder_are_one_base(folder: Path) -> None:
    assert len(list(folder.glob("*.safetensors"))) > 1
    opened = open_checkpoint(resolve_base(str(folder)), task="orpheus")
    opened.check_model(CONFIG.model_dump(mode="json"))
    assert opened.notes == ()
    task = OrpheusTask(CONFIG)
    load_weights(task, task.fitted(opened).weights, source="base")
    for key, value in load_file(sorted(folder.glob("*.safetensors"))[0]).items():
        assert torch.equal(task.state_dict()[f"net.{key}"], value)


def test_a_missing_shard_is_said(copy: Path) -> None:
    sorted(copy.glob("*.safetensors"))[0].unlink()
    with pytest.raises(CheckpointError, match="not beside it"):
        open_checkpoint(resolve_base(str(copy)))


def test_config_json_of_transformers_4_says_the_same(copy: Path) -> None:
    rope = json.loads((copy / "config.json").read_text())["rope_parameters"]
    scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
    change_config(copy, rope_parameters=None, rope_theta=rope["rope_theta"], rope_scaling=scaling)
    open_checkpoint(resolve_base(str(copy))).check_model(CONFIG.model_dump(mode="json"))
    change_config(copy, rope_theta=10_000.0)
    with pytest.raises(CheckpointError, match="rope_theta"):
        open_checkpoint(resolve_base(str(copy))).check_model(CONFIG.model_dump(mode="json"))


def test_fewer_rows_are_filled_up_and_more_are_refused(folder: Path) -> None:
    opened = open_checkpoint(resolve_base(str(folder)))
    larger = OrpheusTask(CONFIG.model_copy(update={"vocab_size": 28_945}))
    fitted = larger.fitted(opened)
    load_weights(larger, fitted.weights, source="base")
    assert fitted.new_embeddings == {"net.model.embed_tokens.weight": (28_943, 28_944)}
    assert "2 token embeddings added" in fitted.notes[0]
    matrix = larger.net.lm_head.weight
    audio = matrix[CONFIG.ids.first_audio : CONFIG.ids.end_audio].mean(dim=0)
    torch.testing.assert_close(matrix[-1], audio, rtol=1e-4, atol=1e-6)
    smaller = OrpheusTask(CONFIG.model_copy(update={"vocab_size": 28_942}))
    with pytest.raises(CheckpointError, match="28,943 ids, the net only 28,942 embeddings"):
        smaller.fitted(opened)
    with pytest.raises(CheckpointError, match="none are dropped"):
        OrpheusTask(CONFIG).fitted(replace(opened, weights=larger_weights(opened.weights)))


def larger_weights(weights: Any) -> Any:
    key = "net.model.embed_tokens.weight"
    stored = weights[key]
    return {**weights, key: replace(stored, shape=(stored.shape[0] + 1, stored.shape[1]))}


def test_facts_that_disagree_are_said(copy: Path) -> None:
    change_config(copy, vocab_size=28_942)
    notes = open_checkpoint(resolve_base(str(copy))).notes
    assert "vocab_size 28,942" in notes[0]


@pytest.mark.parametrize(("flag", "same", "tied"), [(True, True, True), (True, False, False), (False, False, False)])
def test_tensors_decide_whether_head_and_embedding_are_tied(copy: Path, flag: bool, same: bool, tied: bool) -> None:
    tensors = {key: value for file in copy.glob("*.safetensors") for key, value in load_file(file).items()}
    embedding = tensors["model.embed_tokens.weight"]
    for file in copy.glob("*.safetensors*"):
        file.unlink()
    save_file({**tensors, "lm_head.weight": embedding.clone() + (0 if same else 1)}, copy / "model.safetensors")
    change_config(copy, tie_word_embeddings=flag)
    opened = open_checkpoint(resolve_base(str(copy)))
    assert opened.config["tie_word_embeddings"] is tied
    assert ("net.lm_head.weight" in opened.weights) is not tied
    assert bool(opened.notes) is (flag and not same)


def test_a_head_that_should_be_there_and_is_not_is_an_error(copy: Path) -> None:
    change_config(copy, tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match="states untied embeddings"):
        open_checkpoint(resolve_base(str(copy)))


def test_other_things_are_refused_by_name(copy: Path, tmp_path: Path) -> None:
    (copy / "config.json").rename(copy / "kept.json")
    with pytest.raises(CheckpointError, match=r"its `config\.json` is missing"):
        open_checkpoint(resolve_base(str(copy)))
    (copy / "kept.json").rename(copy / "config.json")
    change_config(copy, model_type="qwen2")
    with pytest.raises(CheckpointError, match="`qwen2`, not a `llama`"):
        open_checkpoint(resolve_base(str(copy)))
    change_config(copy, model_type="llama", attention_bias=True)
    with pytest.raises(CheckpointError, match="attention_bias"):
        open_checkpoint(resolve_base(str(copy)))
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(CheckpointError, match="GGUF"):
        open_checkpoint(tmp_path / "model.gguf")
    GPT2LMHeadModel(GPT2Config(vocab_size=10, n_embd=8, n_layer=1, n_head=1)).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(CheckpointError, match="matches no family of ttstrain"):
        open_checkpoint(resolve_base(str(tmp_path / "gpt2")), task="orpheus")


def test_a_llama_without_audio_tokens_is_refused(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="without audio tokens"):
        open_checkpoint(resolve_base(str(copy)))


def test_a_tokenizer_that_is_not_the_bases_own_is_told(tmp_path: Path) -> None:
    opened = open_checkpoint(write_model(tmp_path / "base"))
    assert OrpheusTask(CONFIG).fitted(opened).notes == ()
    other = tmp_path / "base" / "tokenizer.json"
    other.write_text(other.read_text().replace('"version"', ' "version"', 1))
    [note] = OrpheusTask(CONFIG).fitted(opened).notes
    assert "WARNING: the tokenizer `" in note
    assert f"is not the one beside the base, `{other}`" in note
