"""Readers of what other trainers keep beside their weights: projects, vocabularies, tokenized rows, encoders."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from hostile.catalogue import Reader, Sample, files_in
from hostile.columns import edit_parquet
from hostile.mutation import NO_FILE, Files
from hostile.pickles import edit_zip
from hostile.pool import Seen
from hostile.readers.lists import any_json
from hostile.readers.tensor_files import digest_of, fixture, saved
from hostile.tables import edit_table
from hostile.tensors import edit_safetensors
from hostile.trees import edit_json, edit_json_lines
from ttstrain.errors import CheckpointError
from ttstrain.families.flow.project_files import choose, notes_on
from ttstrain.families.flow.project_recipe import recipe_of
from ttstrain.families.flow.vocab import load_vocab

CPU = torch.device("cpu")

# ---------------------------------------------------------------- projects


def _f5_projects(folder: Path) -> Sequence[Sample]:
    settings = {
        "exp_name": "F5TTS_v1_Base",
        "learning_rate": 1e-5,
        "batch_size_per_gpu": 3200,
        "batch_size_type": "frame",
        "max_samples": 64,
        "grad_accumulation_steps": 1,
        "max_grad_norm": 1,
        "epochs": 100,
        "num_warmup_updates": 20,
        "save_per_updates": 50,
        "keep_last_n_checkpoints": -1,
        "last_per_updates": 100,
        "finetune": True,
        "file_checkpoint_train": "",
        "tokenizer_type": "pinyin",
        "tokenizer_file": "",
        "mixed_precision": "fp16",
        "logger": "wandb",
        "bnb_optimizer": False,
    }
    weights = fixture("f5_ckpt_layouts", "f5_ckpt_layouts/model_10.pt")
    vocab = " \na\nb\nc\n"
    files: Files = {
        "ckpts/x/setting.json": any_json(settings),
        "ckpts/x/model_10.pt": weights,
        "ckpts/x/model_last.pt": weights,
        "data/x_pinyin/duration.json": any_json({"duration": [1.5, 2.5, 3.5]}),
        "data/x_pinyin/vocab.txt": vocab.encode(),
    }
    return [
        Sample(files, "ckpts/x/setting.json", edit_json, allowed=NO_FILE),
        Sample(files, "ckpts/x/setting.json", edit_json, allowed=NO_FILE),
        Sample(files, "ckpts/x/model_10.pt", edit_zip, allowed=NO_FILE),
        Sample(files, "data/x_pinyin/duration.json", edit_json, allowed=NO_FILE),
        Sample(files, "data/x_pinyin/vocab.txt", edit_table, allowed=NO_FILE),
    ]


def _read_f5_project(folder: Path) -> Seen:
    """Choose a project's checkpoint and make its settings a recipe."""
    place = folder / "ckpts" / "x"
    chosen = choose(place)
    notes = [] if chosen is None else [chosen.why, *notes_on(chosen.path)]
    told = any("cannot be read" in note for note in notes)
    return Seen(f"{chosen} {notes} {recipe_of(place)}", told=told)


def _sovits_projects(folder: Path) -> Sequence[Sample]:
    """Make files of upstream's training whose counters decide which is the newest."""
    vae = {
        number: saved({"model": {"a": torch.ones(2)}, "iteration": number, "learning_rate": 1e-4}) for number in (1, 2)
    }
    gpt = {
        epoch: saved({"state_dict": {"a": torch.ones(2)}, "epoch": epoch, "global_step": 10 * epoch})
        for epoch in (1, 2)
    }
    of_vae: Files = {f"G_{number}.pth": content for number, content in vae.items()}
    of_gpt: Files = {f"epoch={epoch}-step={10 * epoch}.ckpt": content for epoch, content in gpt.items()}
    return [Sample(files, max(files), edit_zip, allowed=NO_FILE) for files in (of_vae, of_gpt)]


def _read_sovits_project(folder: Path) -> Seen:
    from ttstrain.families.gpt_sovits import project

    chosen = project.choose(folder)
    notes = [] if chosen is None else [chosen.why, *project.notes_on(chosen.path)]
    return Seen(f"{chosen} {notes}", told=any("cannot be read" in note for note in notes))


# ---------------------------------------------------------------- vocabularies and rows


def _vocabs(folder: Path) -> Sequence[Sample]:
    return [Sample({"vocab.txt": b" \n!\na\nb\nc1\nzhong1\n\xc3\xa9\n"}, "vocab.txt", edit_table)]


def _read_vocab(folder: Path) -> Seen:
    vocab = load_vocab(str(folder / "vocab.txt"))
    vocab.encode(["a", "zhong1", "?"])
    return Seen(repr(vocab.tokens), told=bool(vocab.notes))


def _tokenized(folder: Path) -> Sequence[Sample]:
    import pyarrow
    import pyarrow.parquet

    from ttstrain.families.orpheus.rows import speech_row
    from ttstrain.families.orpheus.tokenizer import TOY, load_tokenizer

    tokenizer = load_tokenizer(TOY)
    frames = torch.arange(14).reshape(2, 7)
    rows = [
        speech_row("a", tokenizer.encode(text), frames, tokenizer.ids, labels="all").tokens.tolist()
        for text in ("one: First words.", "two: Second words.")
    ]
    values = [{"input_ids": row, "labels": row, "attention_mask": [1] * len(row)} for row in rows]
    lines = "".join(json.dumps(value) + "\n" for value in values)
    target = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(values), target)
    return [
        Sample({"rows.jsonl": lines.encode()}, "rows.jsonl", edit_json_lines),
        Sample({"rows.parquet": target.getvalue()}, "rows.parquet", edit_parquet),
    ]


def _read_tokenized(folder: Path) -> Seen:
    from ttstrain.families.orpheus.tokenizer import TOY, load_tokenizer
    from ttstrain.families.orpheus.upstream_data import is_tokenized, read_tokenized

    path = next(iter(sorted(folder.glob("rows.*"))), folder / "rows.jsonl")
    if not is_tokenized(path):
        return Seen("it has no rows of tokens", told=True)
    rows = read_tokenized(path, load_tokenizer(TOY))
    return Seen(repr([(row.tokens.tolist(), row.labels.tolist()) for row in rows]))


# ---------------------------------------------------------------- encoders


def _speakers(folder: Path) -> Sequence[Sample]:
    from ttstrain.families.gpt_sovits.features.toy import toy_speaker

    return [Sample({"sv.ckpt": saved(dict(toy_speaker().state_dict()))}, "sv.ckpt", edit_zip)]


def _read_speaker(folder: Path) -> Seen:
    from ttstrain.families.gpt_sovits.features.speaker import load_speaker

    return Seen(digest_of(load_speaker(str(folder / "sv.ckpt"), CPU).net.state_dict()))


def _quantizers(folder: Path) -> Sequence[Sample]:
    from ttstrain.families.gpt_sovits.features.tokens import PARTS

    parts = {name: torch.ones(shape, dtype=torch.float16) for name, shape in PARTS.items()}
    return [Sample({"s2G.pth": saved({"weight": parts, "config": {}})}, "s2G.pth", edit_zip)]


def _read_quantizer(folder: Path) -> Seen:
    from ttstrain.families.gpt_sovits.features.tokens import load_quantizer

    quantizer = load_quantizer(str(folder / "s2G.pth"))
    return Seen(digest_of([quantizer.weight, quantizer.bias, quantizer.codebook]))


def _huberts(folder: Path) -> Sequence[Sample]:
    from ttstrain.families.gpt_sovits.features.toy import toy_hubert

    toy_hubert().save_pretrained(folder / "hubert")
    files = files_in(folder / "hubert")
    return [
        Sample(files, "config.json", edit_json),
        Sample(files, "model.safetensors", edit_safetensors),
    ]


def _read_hubert(folder: Path) -> Seen:
    from ttstrain.families.gpt_sovits.features.hubert import hubert_digest, load_hubert

    hubert = load_hubert(str(folder), CPU)
    if not hubert_digest(str(folder)):
        raise CheckpointError("it has no digest")
    return Seen(digest_of(dict(hubert.net.state_dict())))


READERS = (
    Reader("projects of F5", _f5_projects, _read_f5_project, 200),
    Reader("projects of GPT-SoVITS", _sovits_projects, _read_sovits_project, 150),
    Reader("vocabularies", _vocabs, _read_vocab, 300),
    Reader("tokenized rows (Orpheus)", _tokenized, _read_tokenized, 200),
    Reader("speaker encoders", _speakers, _read_speaker, 60),
    Reader("semantic quantizers", _quantizers, _read_quantizer, 60),
    Reader("HuBERT folders", _huberts, _read_hubert, 60),
)
