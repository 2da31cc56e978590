"""Orpheus from the command line, from recordings to a model for others; and what is given to it in error."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
from safetensors.torch import load_file
from small_orpheus import RECIPE, write_all, write_codec, write_model
from small_runs import checkpoint, differences, finetune, metrics, ttstrain, write_recipe
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from ttstrain.data.manifest import read_manifest, write_manifest
from ttstrain.errors import UserError
from ttstrain.families.orpheus.ids import TokenIds
from ttstrain.runs.resume import resume

IDS = TokenIds(first_custom=259, bos=256, eot=258)
SHORT = ("train.steps=2", "eval.every=null", "checkpoint.every=2", "name=r")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("orpheus"))


# ---------------------------------------------------------------- from recordings to a model


def test_prepare_finetune_resume_sample_and_export_by_hand(recipe: Path, tmp_path: Path) -> None:
    prepared = ttstrain("prepare", recipe.parent / "speech", "--recipe", recipe)
    assert prepared.returncode == 0, prepared.stderr
    told = " ".join((prepared.stdout + prepared.stderr).split())
    assert "at most 2,048 (about 25 s)" in told
    assert "frames ·" in told
    trained = ttstrain("finetune", recipe, f"run_dir={tmp_path}", "name=voice", "sample.every=4", "sample.count=1")
    assert trained.returncode == 0, trained.stderr
    assert "0.0 % padding, micro-batches" in " ".join(trained.stderr.split())
    run = tmp_path / "voice"
    numbers = json.loads((run / "samples" / "step-00000004" / "numbers.json").read_text())
    (preview,) = numbers["previews"]
    assert preview["online"]["numbers"]["slot_violations"] == 0  # `grammar: masked`
    row = next(row for row in metrics(run) if row["step"] == 4 and "sample/stopped/mean" in row)
    assert row["sample/stopped/mean"] == preview["online"]["numbers"]["stopped"]
    assert row["sample/duration_ratio/mean"] == pytest.approx(preview["online"]["duration_ratio"])
    gone_on = ttstrain("resume", run, "train.steps=6")
    assert gone_on.returncode == 0, gone_on.stderr
    spoken = ttstrain("sample", run, "--text", "Good morning.", "-o", tmp_path / "a.wav")
    assert spoken.returncode == 0, spoken.stderr
    assert "slot_violations 0" in spoken.stderr
    assert soundfile.info(tmp_path / "a.wav").frames == 10 * 2048  # 70 tokens are ten whole frames, none of them lost
    exported = ttstrain("export", run, "-o", tmp_path / "out")
    assert exported.returncode == 0, exported.stderr
    assert "greedy tokens the same" in " ".join(exported.stdout.split())
    assert max(len(line) for line in exported.stdout.splitlines() if str(tmp_path) not in line) <= 80
    assert set(load_file(tmp_path / "out" / "model.safetensors")) == {
        name.removeprefix("net.") for name in checkpoint(run, 6).state["task"]
    }


@pytest.mark.shared
def test_real_speech_goes_the_same_way(shared_data: Path, tmp_path: Path) -> None:
    root = tmp_path / "speech"
    (root / "wavs").mkdir(parents=True)
    source = shared_data / "ljspeech-mini"
    rows = [row for row in (source / "metadata.csv").read_text(encoding="utf-8").splitlines() if row][:6]
    for row in rows:
        found = next(source.rglob(f"{row.split('|')[0]}.*"))
        shutil.copy(found, root / "wavs" / found.name)
    (root / "metadata.csv").write_text("\n".join(rows), encoding="utf-8")
    model, codec = write_model(tmp_path / "model"), write_codec(tmp_path / "codec")
    text = (
        RECIPE.replace("MODEL", str(model))
        .replace("CODEC", str(codec))
        .replace("batch_frames: 300", "batch_frames: 1300")
    )
    recipe = write_recipe(tmp_path / "recipe.yaml", data=root, text=text)
    run = finetune(recipe, tmp_path / "runs", "name=lj", "train.steps=3", "checkpoint.every=3", "eval.every=3")
    resume(run, ["train.steps=4", "checkpoint.every=4", "eval.every=4"])
    losses = [row["eval/loss/total"] for row in metrics(run) if "eval/loss/total" in row]
    assert losses[-1] < losses[0]
    spoken = ttstrain("sample", run, "--text", "Printing.", "-o", tmp_path / "a.wav")
    assert spoken.returncode == 0, spoken.stderr
    exported = ttstrain("export", run, "-o", tmp_path / "out", "--format", "fp32")
    assert exported.returncode == 0, exported.stderr


# ---------------------------------------------------------------- resume


@pytest.mark.parametrize("mode", ["lora={rank: 2, dora: true, unfrozen: ['*embed_tokens*']}", "model.param_dtype=bf16"])
def test_a_resumed_run_is_one_that_was_never_stopped(recipe: Path, tmp_path: Path, mode: str) -> None:
    whole = finetune(recipe, tmp_path / "whole", mode, "name=r", "train.steps=4")
    halves = finetune(recipe, tmp_path / "halves", mode, "name=r", "train.steps=4")
    for folder in (halves / "checkpoints").glob("step-00000004*"):
        shutil.rmtree(folder)
    for pointer in ("last", "best"):
        (halves / "checkpoints" / pointer).unlink(missing_ok=True)
    (halves / "checkpoints" / "last").write_text("step-00000002\n")
    resume(halves, [])
    one, other = (checkpoint(run, 4).state for run in (whole, halves))
    assert differences(one, other) == []


# ---------------------------------------------------------------- what is no base, no tokenizer, no data


def gguf(folder: Path) -> list[str]:
    (folder / "model.gguf").write_bytes(b"GGUF" + bytes(100))
    return [f"base={folder / 'model.gguf'}"]


def gpt2(folder: Path) -> list[str]:
    GPT2LMHeadModel(GPT2Config(vocab_size=10, n_embd=8, n_layer=1, n_head=1)).save_pretrained(folder / "gpt2")
    return [f"base={folder / 'gpt2'}"]


def plain_llama(folder: Path) -> list[str]:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    LlamaForCausalLM(LlamaConfig(vocab_size=300, **sizes)).save_pretrained(folder / "llama")
    return [f"base={folder / 'llama'}"]


def other_tokenizer(folder: Path) -> list[str]:
    from tokenizers import Tokenizer, models

    (folder / "tok").mkdir()
    Tokenizer(models.BPE({"a": 0, "b": 1}, [])).save(str(folder / "tok" / "tokenizer.json"))
    return [f"model.rows.tokenizer={folder / 'tok'}"]


def text_only(folder: Path) -> list[str]:
    lines = [json.dumps({"question": f"{i}?", "answer": "Yes."}) for i in range(9)]
    (folder / "text.jsonl").write_text("\n".join(lines))
    return [f"data.path={folder / 'text.jsonl'}"]


def out_of_slot(folder: Path) -> list[str]:
    frame = [IDS.of(slot, 5) for slot in range(7)]
    tokens = [IDS.soh, IDS.bos, 1, IDS.eot, IDS.eoh, IDS.soa, IDS.sos, *frame, IDS.of(3, 1), IDS.eos, IDS.eoa]
    (folder / "rows.jsonl").write_text(json.dumps({"input_ids": tokens}))
    return [f"model.rows.text_mix={{path: {folder / 'rows.jsonl'}}}"]


def smaller_vocabulary(folder: Path) -> list[str]:
    return ["model.vocab_size=28000"]


def other_sizes(folder: Path) -> list[str]:
    return [f"base={write_model(folder / 'wide', hidden_size=64)}"]


@pytest.mark.parametrize(
    ("made", "code", "said"),
    [
        (gguf, 4, "a GGUF file, quantised for inference"),
        (gpt2, 4, "matches no family of ttstrain"),
        (plain_llama, 4, "a Llama without audio tokens: it has 300 tokens"),
        (other_tokenizer, 4, "has no audio tokens"),
        (text_only, 3, "names a file: it has answer, question"),
        (out_of_slot, 3, "position 14: slot 0 expected, slot 3 code 1 found"),
        (smaller_vocabulary, 2, "no room for the audio tokens"),
        (other_sizes, 4, "hidden_size: 64 in the file, 32 in the recipe"),
    ],
)
def test_each_wrong_thing_has_its_own_words(recipe: Path, tmp_path: Path, made: object, code: int, said: str) -> None:
    assert callable(made)
    with pytest.raises(UserError, match=said) as caught:
        finetune(recipe, tmp_path / "runs", *SHORT, *made(tmp_path))
    assert caught.value.exit_code == code
    assert not (tmp_path / "runs" / "r").exists()


def test_a_voice_is_asked_for_by_name(recipe: Path, tmp_path: Path) -> None:
    run = finetune(recipe, tmp_path / "runs", *SHORT)
    clip = next((recipe.parent / "speech" / "wavs").glob("*.wav"))
    asked = ["--text", "Hello.", "--ref-audio", clip, "--ref-text", "x", "-o", tmp_path / "a.wav"]
    done = ttstrain("sample", run, *asked)
    assert done.returncode == 2
    assert "selects a voice by name" in done.stderr
    assert "model.sampling.voice=NAME" in done.stderr
    clips = read_manifest(run / "data" / "train.jsonl")
    write_manifest(run / "data" / "train.jsonl", [replace(clip, speaker="ann") for clip in clips])
    unknown = ttstrain("sample", run, *asked[:2], "-o", tmp_path / "a.wav", "model.sampling.voice=nobody")
    assert unknown.returncode == 2, unknown.stderr
    assert "this run has no voice `nobody`" in unknown.stderr
    assert "hint: it was trained on ann; published weights have tara, " in unknown.stderr
    long = "This sentence takes about three seconds. " * 3
    spoken = ttstrain("sample", run, "--text", long, "-o", tmp_path / "b.wav")
    assert spoken.returncode == 0, spoken.stderr
    assert ", 3 chunks, " in spoken.stdout
    assert soundfile.info(tmp_path / "b.wav").frames == 3 * 10 * 2048  # 70 tokens each
