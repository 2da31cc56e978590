"""An exported Orpheus is read by transformers and peft as what the checkpoint computes, or it does not come to be."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from small_orpheus import RECIPE, logits_of, plain_llama, write_all, write_model
from small_runs import checkpoint, finetune, ttstrain
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from ttstrain.checkpoint.upstream import open_checkpoint
from ttstrain.errors import CheckpointError, RecipeError
from ttstrain.export.choose import gather
from ttstrain.export.write import Exported, export
from ttstrain.families.orpheus import export as orpheus_export
from ttstrain.families.orpheus import proof
from ttstrain.families.orpheus.config import OrpheusConfig
from ttstrain.families.orpheus.export_texts import config_json
from ttstrain.modules import lora

TOKENS = [262, 256, 7, 8, 9, 258, 263, 264, 260, 300, 4500]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("orpheus"))


@pytest.fixture(scope="module", autouse=True)
def _reader_imported_once() -> Iterator[None]:
    """Prove exports of this process by a reader that need not import transformers first; commands start their own."""

    def read(request: Path, answer: Path) -> subprocess.CompletedProcess[str]:
        return forked.run_file(proof.READER, [str(request), str(answer)], environment=dict(os.environ) | proof.OFFLINE)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proof, "_run_reader", read)
        yield


@pytest.fixture(scope="module")
def run(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetune(recipe, tmp_path_factory.mktemp("runs"), "name=full")


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(gather(run), tmp_path_factory.mktemp("out") / "model", formats=["fp32", "bf16"])


def weights_of(run: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = checkpoint(run, 4).state["task"]
    return weights


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


# ---------------------------------------------------------------- the whole model


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_transformers_computes_what_the_checkpoint_does(
    exported: Exported, run: Path, recipe: Path, name: str, dtype: torch.dtype
) -> None:
    rounded = {key: tensor.to(dtype) for key, tensor in weights_of(run).items()}
    expected = logits_of(plain_llama(recipe.parent / "model", rounded), TOKENS)
    torch.testing.assert_close(logits_of(load(exported.folder / name), TOKENS), expected, rtol=0, atol=1e-5)
    stored = load_file(exported.folder / name / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {dtype}
    assert "lm_head.weight" not in stored


def test_what_was_seen_is_told(exported: Exported) -> None:
    assert [line.partition(":")[0] for line in exported.proven] == ["fp32", "bf16"]
    assert "36 greedy tokens the same" in exported.proven[0]
    assert exported.difference == 0


def test_both_spellings_of_the_rotary_settings_are_there(exported: Exported) -> None:
    settings = json.loads((exported.folder / "bf16" / "config.json").read_text())
    assert settings["rope_theta"] == settings["rope_parameters"]["rope_theta"] == 500_000.0
    assert settings["rope_scaling"] == {key: settings["rope_parameters"][key] for key in settings["rope_scaling"]}
    assert settings["rope_scaling"]["rope_type"] == "llama3"
    assert settings["torch_dtype"] == settings["dtype"] == "bfloat16"
    assert (settings["tie_word_embeddings"], settings["vocab_size"]) == (True, 28_943)


def test_generation_stops_where_speech_ends(exported: Exported) -> None:
    settings = GenerationConfig.from_pretrained(exported.folder / "bf16")
    assert settings.eos_token_id == [259 + 2, 259 + 6]  # <custom_token_2> ends speech, <custom_token_6> the turn
    assert (settings.temperature, settings.top_p, settings.repetition_penalty) == (0.6, 0.95, 1.1)
    assert settings.max_new_tokens == 2048  # a row's length, though samples of the run are shorter


def test_the_tokenizer_is_the_base_s_byte_for_byte(exported: Exported, recipe: Path) -> None:
    own, theirs = (folder / "tokenizer.json" for folder in (exported.folder / "bf16", recipe.parent / "model"))
    assert own.read_bytes() == theirs.read_bytes()


@pytest.fixture(scope="module")
def of_a_published_base(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export over a base whose tokenizer stops where Llama's does, as every published one says."""
    root = tmp_path_factory.mktemp("published")
    model = write_model(root / "model")
    token = {"content": "<|eot_id|>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|eot_id|>",
        "model_max_length": 131_072,
    }
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    (model / "special_tokens_map.json").write_text(json.dumps({"bos_token": "<|begin_of_text|>", "eos_token": token}))
    source = gather(run)
    assert isinstance(source.config, OrpheusConfig)
    rows = source.config.rows.model_copy(update={"tokenizer": str(model)})
    source = replace(source, config=source.config.model_copy(update={"rows": rows}))
    return export(source, root / "out").folder


def test_every_reader_finds_the_end_of_speech_to_stop_at(of_a_published_base: Path) -> None:
    eos = 259 + 2

    def read(name: str) -> Any:
        return json.loads((of_a_published_base / name).read_text())

    assert AutoTokenizer.from_pretrained(of_a_published_base).eos_token_id == eos
    assert read("config.json")["eos_token_id"] == eos
    assert read("generation_config.json")["eos_token_id"][0] == eos
    assert read("orpheus.json")["stop_token_ids"][0] == eos
    assert read("tokenizer_config.json")["eos_token"] == read("special_tokens_map.json")["eos_token"]
    assert read("tokenizer_config.json")["model_max_length"] == 131_072  # all else is the base's


def test_a_gguf_stops_at_the_end_of_speech(of_a_published_base: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="needs llama.cpp's package `gguf`")
    assert gguf.SpecialVocab(of_a_published_base).special_token_ids["eos"] == 259 + 2


def test_facts_for_engines_are_what_transformers_tokenizer_makes(exported: Exported) -> None:
    facts = json.loads((exported.folder / "bf16" / "orpheus.json").read_text())
    prompt = facts["prompt"]
    tokenizer = AutoTokenizer.from_pretrained(exported.folder / "bf16")
    text = tokenizer(prompt["example"]["text"], add_special_tokens=False).input_ids
    assert prompt["example"]["ids"] == [*prompt["before_text"], *text, *prompt["after_text"]]
    assert tokenizer.convert_ids_to_tokens(facts["stop_token_ids"]) == ["<custom_token_2>", "<custom_token_6>"]
    assert tokenizer.convert_ids_to_tokens(facts["audio"]["first_id"]) == "<custom_token_10>"


def test_the_folder_is_a_base_and_speaks(exported: Exported, tmp_path: Path) -> None:
    opened = open_checkpoint(exported.folder / "fp32" / "model.safetensors", task="orpheus")
    assert opened.notes == ()
    spoken = ttstrain("sample", exported.folder / "bf16", "--text", "Hello.", "-o", tmp_path / "a.wav")
    assert spoken.returncode == 0, spoken.stderr
    assert "slot_violations 0" in spoken.stderr
    assert (tmp_path / "a.wav").is_file()


def test_two_matrices_stay_two(recipe: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "untied", tie_word_embeddings=False)
    run = finetune(recipe, tmp_path / "runs", "name=untied", f"base={model}", "model.tie_word_embeddings=false")
    found = export(gather(run), tmp_path / "out", formats=["fp32"])
    assert json.loads((found.folder / "config.json").read_text())["tie_word_embeddings"] is False
    expected = logits_of(plain_llama(model, weights_of(run), tied=False), TOKENS)
    torch.testing.assert_close(logits_of(load(found.folder), TOKENS), expected, rtol=0, atol=1e-5)


# ---------------------------------------------------------------- proof that can fail


def change(settings: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {key: value for key, value in {**settings, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"rope_theta": None, "rope_scaling": None},
            "as transformers 4 spells the settings",
        ),  # what transformers 5 writes by itself
        ({"rope_theta": 10_000.0}, "logits differ"),
        ({"rms_norm_eps": 1e-2}, "differ"),
        ({"num_attention_heads": 8}, "could not read it"),
    ],
)
def test_a_folder_that_means_something_else_is_not_kept(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(
        orpheus_export, "config_json", lambda config, dtype: change(config_json(config, dtype=dtype), **changes)
    )
    with pytest.raises(CheckpointError, match=said) as caught:
        export(gather(run), tmp_path / "out")
    assert caught.value.exit_code == 4
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- adapters

ADAPTED = "lora={rank: 4, alpha: 8, dora: true, rslora: true, unfrozen: ['*embed_tokens*']}"


@pytest.fixture(scope="module")
def adapted(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of adapters over a base in bf16, with the shared matrix of head and embedding trained whole."""
    return finetune(recipe, tmp_path_factory.mktemp("runs"), "name=lora", ADAPTED, "model.param_dtype=bf16")


@pytest.fixture(scope="module")
def both(adapted: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(gather(adapted), tmp_path_factory.mktemp("out") / "both", formats=["adapter", "fp32"])


def test_adapters_are_merged_in_float32(both: Exported, adapted: Path) -> None:
    state = {lora.plain_name(key): tensor.float() for key, tensor in weights_of(adapted).items()}
    layer = "net.model.layers.1.mlp.up_proj"
    moved = state[f"{layer}.weight"] + 4.0 * state[f"{layer}.lora_B.weight"] @ state[f"{layer}.lora_A.weight"]
    length = state[f"{layer}.lora_magnitude_vector.weight"]
    expected = moved * (length / moved.norm(dim=1))[:, None]
    stored = load_file(both.folder / "fp32" / "model.safetensors")[f"{layer.removeprefix('net.')}.weight"]
    torch.testing.assert_close(stored, expected, rtol=1e-6, atol=1e-7)
    assert not torch.equal(stored, expected.bfloat16().float())  # not rounded to the base's type on the way


def test_peft_lays_the_adapters_over_the_base(both: Exported, recipe: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(recipe.parent / "model", dtype=torch.bfloat16).float()
    with_adapters = PeftModel.from_pretrained(base, both.folder / "adapter").eval()
    merged = logits_of(load(both.folder / "fp32"), TOKENS)
    torch.testing.assert_close(logits_of(with_adapters, TOKENS), merged, rtol=0, atol=2e-5)
    settings = json.loads((both.folder / "adapter" / "adapter_config.json").read_text())
    assert sorted(settings["target_modules"]) == sorted(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )
    assert (settings["modules_to_save"], settings["ensure_weight_tying"]) == (["model.embed_tokens"], True)


def test_a_run_without_adapters_has_none_to_write(run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no separate adapters"):
        export(gather(run), tmp_path / "out", formats=["adapter"])


def test_adapters_over_a_run_of_ours_are_refused_with_the_way_out(recipe: Path, run: Path, tmp_path: Path) -> None:
    over = finetune(recipe, tmp_path, "name=over", f"base={run}", "lora={rank: 2}", "train.steps=4")
    with pytest.raises(CheckpointError, match="only load folders of transformers") as caught:
        export(gather(over), tmp_path / "out", formats=["adapter"])
    assert "export the whole model" in str(caught.value.hint)


def test_an_unknown_format_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no format `gguf`") as caught:
        export(gather(run), tmp_path / "out", formats=["gguf"])
    assert "bf16, fp32, adapter" in str(caught.value.hint)


def test_the_command_says_what_it_saw(adapted: Path, tmp_path: Path) -> None:
    done = ttstrain("export", adapted, "-o", tmp_path / "out", "--format", "adapter", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["checked"]["difference"] is None
    assert "peft over the base" in document["checked"]["tools"][0]
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


assert "sampling: {max_tokens: 70" in RECIPE  # what the export's limit is compared with
