"""The inputs that once crashed a reader, hung it, or were believed: each is refused or told now.

Each is made from a healthy sample of the catalogue by one change, and read in a process with limits.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile.catalogue import Sample, prepared, readers
from hostile.mutation import Case, Files
from hostile.pool import Trial, Verdict, read_all
from hostile.readers.tensor_files import saved
from hostile.tensors import put_together, take_apart

Change = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Worst:
    """One input: which file of a reader's samples is changed, how, and what comes of it."""

    what: str
    reader: str
    file: str
    change: Change
    verdict: Verdict = "refused"

    def case(self, samples: Sequence[Sample]) -> Case:
        """Change the first sample that is about this file."""
        index = next(number for number, sample in enumerate(samples) if sample.target == self.file)
        content = samples[index].files[self.file]
        assert isinstance(content, bytes)
        changed = self.change(content)
        assert changed != content, self.what
        files: Files = {**samples[index].files, self.file: changed}
        signed = samples[index].signed
        return Case(files if signed is None else signed(files), self.what, plain=self.verdict == "other", sample=index)


# ---------------------------------------------------------------- changes


def json_with(key: str, value: Any) -> Change:
    """Set one key of a JSON document; dots lead into it."""

    def change(content: bytes) -> bytes:
        tree = json.loads(content)
        *path, last = key.split(".")
        at = tree
        for part in path:
            at = at[int(part) if isinstance(at, list) else part]
        at[last] = value
        return json.dumps(tree).encode()

    return change


def first_line(change: Change) -> Change:
    """Change the first line of JSON lines."""

    def changed(content: bytes) -> bytes:
        first, rest = content.split(b"\n", 1)
        return change(first) + b"\n" + rest

    return changed


def entry(*path: Any, value: Any) -> Change:
    """Set an entry of a file of torch and write the file again, with right checksums."""

    def changed(content: bytes) -> bytes:
        tree = torch.load(io.BytesIO(b"PK" + content[2:]), weights_only=True)
        at = tree
        for part in path[:-1]:
            at = at[part]
        at[path[-1]] = value
        return saved(tree)

    return changed


def header(name: str, field: str, value: Any) -> Change:
    """Set a field of a tensor in the header of a safetensors file."""

    def changed(content: bytes) -> bytes:
        tree, data = take_apart(content)
        tree[name][field] = value
        return put_together(tree, data)

    return changed


def without(name: str) -> Change:
    """Take a tensor out of a safetensors file."""

    def changed(content: bytes) -> bytes:
        tree, data = take_apart(content)
        start, end = tree.pop(name)["data_offsets"]
        for own in tree.values():
            own["data_offsets"] = [place - (end - start) * (place >= end) for place in own["data_offsets"]]
        return put_together(tree, data[:start] + data[end:])

    return changed


def bit_of(member: str) -> Change:
    """Flip a bit in the middle of a member of an archive."""

    def changed(content: bytes) -> bytes:
        with zipfile.ZipFile(io.BytesIO(b"PK" + content[2:])) as archive:
            info = archive.getinfo(member)
        name, extra = struct.unpack_from("<HH", content, info.header_offset + 26)
        place = info.header_offset + 30 + name + extra + info.file_size // 2
        return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]

    return changed


def number_at(place: int, form: str, value: int) -> Change:
    def changed(content: bytes) -> bytes:
        data = bytearray(content)
        struct.pack_into(form, data, place, value)
        return bytes(data)

    return changed


def replaced(old: bytes, new: bytes) -> Change:
    return lambda content: content.replace(old, new, 1)


def before_the_end(place: int, new: bytes) -> Change:
    """Put bytes in front of the last `place` bytes."""
    return lambda content: content[:-place] + new + content[-place:]


def directory_elsewhere(content: bytes) -> bytes:
    """Let a zip's table of contents claim a place behind its own: every member then begins before the file."""
    place = content.rfind(b"PK\x06\x06") + 48  # of the end record for large archives, which torch always writes
    (start,) = struct.unpack_from("<Q", content, place)
    return number_at(place, "<Q", start + 5000)(content)


def footer_number(place: int, number: bytes) -> Change:
    """Replace a byte of a Parquet file's table of contents, whose length is made right again."""

    def changed(content: bytes) -> bytes:
        start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
        footer = content[start : start + place] + number + content[start + place + 1 : -8]
        return content[:start] + footer + struct.pack("<I", len(footer)) + content[-4:]

    return changed


# ---------------------------------------------------------------- the inputs

HF, PEFT, SOVITS, F5 = "Hugging Face folders", "adapters of peft", "GPT-SoVITS' files", "F5's training files"
REPORT, RESUME, PREPARED = (
    "run folders, for report and watch",
    "run folders, for resume",
    "folders that GPT-SoVITS prepared",
)
RECORDING, ROWS = "long recordings", "tokenized rows (Orpheus)"
OWN, STEP = "checkpoint folders", "step-00000007"
LORA_A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
LORA_B = LORA_A.replace("lora_A", "lora_B")
ADAPTER, ADAPTER_SETTINGS = "own/adapter_model.safetensors", "own/adapter_config.json"
INDEX = "model.safetensors.index.json"
GROUP = ("param_groups", 0)

WORST: Sequence[Worst] = (
    # believed: a checksum of the format, or what two places say, was not compared
    Worst("a bit of a weight", "pt (zip)", "w.pt", bit_of("archive/data/0")),
    Worst("a bit of the pickle", "pt (zip)", "w.pt", bit_of("archive/data.pkl")),
    Worst("whole numbers for weights", "safetensors", "w.safetensors", header("0.weight", "dtype", "I32")),
    Worst("another checksum of all samples", "flac", "a.flac", number_at(30, "<I", 7)),
    Worst("another rate", "wav", "a.wav", number_at(24, "<I", 17_000), "told"),
    Worst("an index that names another shard", HF, INDEX, replaced(b"model-00001", b"model-00002")),
    Worst("half of an adapter", PEFT, ADAPTER, without(LORA_A)),
    Worst("another rate", "flac", "a.flac", number_at(18, ">H", 0x0AC4), "told"),
    Worst("bytes put into the last weights", "pt (legacy)", "w.pt", before_the_end(40, b"\1" * 8)),
    Worst("whole numbers for an adapter", PEFT, ADAPTER, header(LORA_B, "dtype", "U32")),
    Worst("a feature of another shape", "cached features", "f.safetensors", header("mel", "shape", [3, 5])),
    Worst("a web page", "texts to say", "t.txt", lambda content: b"<!DOCTYPE html><p>404</p>\n"),
    Worst("a recording that ends early", RECORDING, "r.wav", lambda content: content[: len(content) // 2]),
    Worst("a recording of another rate", RECORDING, "r.wav", number_at(24, "<I", 17_000), "told"),
    Worst("A-law of 16 bits", RECORDING, "r.wav", number_at(20, "<H", 6), "told"),
    Worst("another checksum of a recording", RECORDING, "r.flac", number_at(30, "<I", 7)),
    Worst(
        "a pointer for what was heard", REPORT, "run/judge.json", lambda content: b"version https://git-lfs\n", "told"
    ),
    Worst(
        "a sample that ends early", REPORT, "run/samples/step-00000020/clip-0.wav", lambda content: content[:-9], "told"
    ),
    # took more than 5 s or 1 GiB
    Worst("a rate whose filter takes gigabytes", RECORDING, "r.wav", number_at(24, "<I", 7_999)),
    Worst("a word without an end", "texts beside recordings", "r.txt", replaced(b"Text", b"x" * 70_000), "told"),
    # crashed: a value of another type, size or shape
    Worst("a column's name that is no text", "arrow (prepared by F5)", "raw.arrow", replaced(b"text", b"te\xfft")),
    Worst("statistics of a wrong length", "parquet", "a.parquet", footer_number(44, b"\1")),
    Worst("labels of another length", ROWS, "rows.jsonl", first_line(json_with("labels", [1]))),
    Worst("a mask of objects", ROWS, "rows.jsonl", first_line(json_with("attention_mask", [{}]))),
    Worst("an activation that is a number", "HuBERT folders", "config.json", json_with("hidden_act", 1.0)),
    Worst("a header that ends early", "HuBERT folders", "model.safetensors", number_at(0, "<Q", 255)),
    Worst("a task that is a list", "yaml recipe", "r.yaml", replaced(b"task: flow", b"task: [flow]")),
    Worst("members that begin before the file", "pt (zip)", "w.pt", directory_elsewhere),
    Worst("an average without names", OWN, f"{STEP}/ema.json", json_with("weights", [])),
    Worst("an average that is no part", OWN, f"{STEP}/ema.json", lambda content: b"[]"),
    Worst("an optimizer that is a number", OWN, f"{STEP}/optimizers.json", json_with("model", 5)),
    Worst("a vocabulary that is no text", OWN, f"{STEP}/vocab.txt", replaced(b"b", b"\xed")),
    Worst("an adapter of rank 0", PEFT, ADAPTER_SETTINGS, json_with("r", 0)),
    Worst("an adapter of another rank", PEFT, ADAPTER_SETTINGS, json_with("r", 3)),
    Worst("an adapter without an end", PEFT, ADAPTER_SETTINGS, json_with("lora_alpha", 10**99)),
    Worst("a million layers", HF, "config.json", json_with("num_hidden_layers", 1_000_000)),
    Worst("groups that are none", HF, "optimizer.pt", entry(*GROUP, value=None)),
    Worst("a group without an LR", HF, "optimizer.pt", entry(*GROUP, "lr", value="x")),
    Worst("a schedule of texts", HF, "scheduler.pt", entry("_last_lr", value=["x"]), "told"),
    Worst("an optimizer of texts", SOVITS, "D_7.pth", entry("optimizer", "state", value={"a": "b"}), "told"),
    Worst("a step that is a text", SOVITS, "gpt.ckpt", entry("global_step", value="x"), "told"),
    Worst(
        "an embedding of one dimension",
        SOVITS,
        "s1.ckpt",
        entry("weight", "model.ar_text_embedding.word_embeddings.weight", value=torch.ones(3)),
    ),
    Worst("an update that is a text", F5, "model_10.pt", entry("update", value="x"), "told"),
    Worst(
        "a schedule that is a list", F5, "model_10.pt", entry("scheduler_state_dict", value={"last_epoch": []}), "told"
    ),
    Worst(
        "a vocoder of a million layers", "vocoders", "config.yaml", replaced(b"num_layers: 1", b"num_layers: 1000000")
    ),
    Worst("a vocoder of terabytes", "vocoders", "config.yaml", replaced(b"dim: 8", b"dim: 8000000000")),
    Worst("a codec of terabytes", "codecs (SNAC)", "config.json", json_with("decoder_dim", 1 << 40)),
    Worst("a codec of no codes", "codecs (SNAC)", "config.json", json_with("codebook_size", "x")),
    Worst("a rate of no sound", "lists of clips", "train.jsonl", first_line(json_with("sample_rate", 0))),
    Worst("a clip of no rate", "cut clips and their review", "clips.jsonl", first_line(json_with("sample_rate", 0))),
    Worst("half a letter", "cut clips and their review", "clips.jsonl", first_line(json_with("text", "\ud800"))),
    Worst("a cell without an end", "texts to say", "t.tsv", replaced(b"other words", b"x" * 200_000), "other"),
    Worst("lists in lists", PREPARED, "2-name2text.txt", replaced(b"[1, 2]", b"[" * 5000), "told"),
    Worst("signs before a number", PREPARED, "2-name2text.txt", replaced(b"[1, 2]", b"-" * 60_000 + b"1"), "told"),
    Worst(
        "a step of 5,000 digits",
        RESUME,
        "run/metrics.jsonl",
        lambda content: content + b'{"step": 1' + b"0" * 5000 + b"}\n",
    ),
    Worst("a command that is a number", RESUME, "run/sessions/0001/env.json", json_with("command", 5), "equal"),
    Worst("clips that are a number", REPORT, "run/incidents/00000031-spike.json", json_with("clips", 5), "other"),
    Worst(
        "unknown letters that are a number", REPORT, "run/plan.json", json_with("data.texts", {"unknown": 7}), "told"
    ),
    Worst("devices that are a number", REPORT, "run/env.json", json_with("devices", 5), "told"),
    Worst("a side that is a list", REPORT, "run/judge.json", json_with("steps.0.sides.online", []), "told"),
    Worst("a score that is a text", REPORT, "run/judge.json", json_with("steps.1.score", "x"), "told"),
    Worst("a recipe that is a list", REPORT, "run/plan.json", json_with("recipe", []), "other"),
)


@pytest.mark.parametrize("name", sorted({worst.reader for worst in WORST}))
def test_worst_inputs_are_refused_or_told(name: str, tmp_path: Path) -> None:
    reader = readers()[name]
    worst = [one for one in WORST if one.reader == name]
    (tmp_path / "making").mkdir()
    samples = reader.samples(tmp_path / "making")
    cases = [one.case(samples) for one in worst]
    trial = prepared(reader, tmp_path / "trial")
    found = read_all(Trial(cases.__getitem__, trial.read, trial.originals, trial.place), range(len(cases)))
    seen = {worst[one.number].what: (one.verdict, one.detail) for one in found}
    assert {what: verdict for what, (verdict, _) in seen.items()} == {one.what: one.verdict for one in worst}, seen
