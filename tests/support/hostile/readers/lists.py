"""Readers of tables of text, of recipes, and of the lists that ttstrain writes for itself."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hostile.archives import edit_tar
from hostile.catalogue import Reader, Sample
from hostile.mutation import Edit, Files
from hostile.pool import Seen
from hostile.readers.data import seen_rows, sound
from hostile.tables import edit_table
from hostile.trees import edit_json_lines, edit_yaml
from ttstrain.contract.data import Clip, Treatment
from ttstrain.data.audit import audit
from ttstrain.data.manifest import read_manifest, write_manifest
from ttstrain.data.readers import read_rows
from ttstrain.infer.load import read_lines
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose
from ttstrain.recipe.schema import DataConfig
from ttstrain.recordings.clips import CutClip, read_clips, write_clips
from ttstrain.recordings.review import corrected, read_corrections

WAVS: Files = {f"wavs/{name}.wav": sound("WAV", "PCM_16", pitch=2 * ord(name)) for name in "abc"}


class RowLostError(AssertionError):
    """A line of a table became neither a row nor a finding."""


def _tables(name: str, edit: Edit, *texts: str) -> Callable[[Path], Sequence[Sample]]:
    def samples(folder: Path) -> Sequence[Sample]:
        return [Sample({**WAVS, name: text.encode()}, name, edit) for text in texts]

    return samples


def _read_table(name: str, *, line_by_line: bool) -> Callable[[Path], Seen]:
    def read(folder: Path) -> Seen:
        """Read a table and audit it, as `prepare` does."""
        table = read_rows(folder / name, cache_dir=str(folder / "cache"))
        seen = seen_rows(table)
        if line_by_line:
            _check_none_lost(folder / name, len(table.rows) + len(table.findings))
        result = audit(table, DataConfig(path=str(folder), cache_dir=str(folder / "cache")), workers=1)
        notes = [clip.notes for clip in result.clips]
        return Seen(seen.meaning, told=seen.told or any(notes) or bool(result.findings))

    return read


def _check_none_lost(path: Path, found: int) -> None:
    content = path.read_bytes()
    lines = content.split(b"\n" if b"\n" in content else b"\r")
    filled = sum(bool(line.strip()) for line in lines)
    if b"\0" not in content and not content.startswith((b"[", b"\xff\xfe", b"\xfe\xff")) and found < filled - 1:
        raise RowLostError(f"{filled} lines, {found} rows and findings")


_CSV = (
    'file_name,text,speaker\nwavs/a.wav,first words,one\nwavs/b.wav,"second, words",two\nwavs/c.wav,third words,one\n',
    "a|First words.|first words\nb|Second words.|second words\nc|Third words.|third words\n",
    "id\ttext\tlanguage\na\tfirst words\ten\nb\tsecond words\tde\nc\tthird words\ten\n",
)
_LIST = ("wavs/a.wav|one|en|first words\nwavs/b.wav|two|en|second words\nwavs/c.wav|one|ja|third words\n",)
_JSONL = (
    '{"audio": "wavs/a.wav", "text": "first words", "speaker": "one"}\n'
    '{"audio": "wavs/b.wav", "text": "second words", "duration": 0.6}\n'
    '{"audio": "wavs/c.wav", "text": "third words", "lang": "en"}\n',
    '{"file_name": "wavs/a.wav", "text": "first words"}\n{"file_name": "wavs/b.wav", "text": "second words"}\n',
)


def _shards(folder: Path) -> Sequence[Sample]:
    """Make a shard of WebDataset: recordings, each beside its text or an object that holds it."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in "abc":
            beside = (
                (f"{name}.txt", b"some words") if name == "a" else (f"{name}.json", any_json({"text": "more words"}))
            )
            for inside, content in ((f"{name}.flac", sound("FLAC", "PCM_16", pitch=2 * ord(name))), beside):
                info = tarfile.TarInfo(inside)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return [Sample({"train-000.tar": target.getvalue()}, "train-000.tar", edit_tar)]


# ---------------------------------------------------------------- recipes


def _recipes(folder: Path) -> Sequence[Sample]:
    text = (
        "task: flow\nname: made\nbase: null\nmodel: {dim: 32, depth: 1, heads: 2, ff_mult: 2, text_dim: 16}\n"
        "data: {path: 'package:demo', holdout: 2, batch_frames: 400, max_s: 20.0}\n"
        "optim:\n  lr: 1e-3\n  groups: [{name: text, match: ['*text*'], lr: 5e-4}]\n"
        "  schedule: {kind: cosine, warmup_steps: 10}\n"
        "train: {steps: 100, device: cpu, precision: fp32, seed: 3}\nema: {enabled: true, decay: 0.99}\n"
        "eval: {every: 10}\nsample: {every: 10}\ncheckpoint: {every: 10, keep_last: 3}\ntracking: {wandb: 'off'}\n"
    )
    return [Sample({"r.yaml": text.encode()}, "r.yaml", edit_yaml)]


def _read_recipe(folder: Path) -> Seen:
    checked = parse(compose(str(folder / "r.yaml"), []))
    return Seen(json.dumps(checked.model_dump(mode="json"), sort_keys=True))


# ---------------------------------------------------------------- lists that ttstrain writes


def _manifests(folder: Path) -> Sequence[Sample]:
    clips = [
        Clip(
            id=f"clip-{number}",
            path=folder / f"{number}.wav",
            text="some words",
            duration_s=1.5,
            sample_rate=16_000,
            treatment=Treatment(0, 1.0, 0.0, 0, 24_000),
            tokens=("a", "b"),
        )
        for number in range(3)
    ]
    write_manifest(folder / "train.jsonl", clips)
    files = {"train.jsonl": (folder / "train.jsonl").read_bytes()}
    return [Sample(files, "train.jsonl", edit_json_lines, allowed=("an empty file",))]


def _read_manifest(folder: Path) -> Seen:
    """Read a list of clips, and use its numbers as a run does."""
    clips = read_manifest(folder / "train.jsonl")
    for clip in clips:
        clip.samples_at(24_000)
        sum(one.duration_s for one in clips)
        f"{clip.id}{clip.text}{clip.speaker}{clip.path.name}{clip.digest}".strip()
    return Seen(repr([asdict(clip) for clip in clips]))


def _cuts(folder: Path) -> Sequence[Sample]:
    clips = [
        CutClip(id=f"c{n}", file=f"clips/c{n}.wav", source="a.wav", start=0, end=9600, sample_rate=16_000, text="words")
        for n in range(3)
    ]
    write_clips(folder, clips)
    review = "id,action,speaker,text\nc0,keep,one,words\nc1,drop,one,words\nc2,keep,two,other words\n"
    files = {"clips.jsonl": (folder / "clips.jsonl").read_bytes(), "review.csv": review.encode()}
    return [Sample(files, "clips.jsonl", edit_json_lines), Sample(files, "review.csv", edit_table)]


def _read_cuts(folder: Path) -> Seen:
    """Take over a review, and write the clips again, as `prepare --review` does."""
    clips = corrected(read_clips(folder), read_corrections(folder / "review.csv"))
    (folder / "out").mkdir()
    write_clips(folder / "out", clips)
    return Seen(repr(clips) + str(sum(clip.duration_s for clip in clips)))


def _texts(folder: Path) -> Sequence[Sample]:
    texts: Mapping[str, str] = {
        "t.txt": "First words.\nSecond words.\n",
        "t.tsv": "text\tname\tref_text\nFirst words.\ta\tother words\nSecond words.\tb\t\n",
        "t.jsonl": '{"text": "First words.", "name": "a"}\n{"text": "Second words.", "ref_audio": "a.wav"}\n',
    }
    edits: Mapping[str, Edit] = {"t.txt": edit_table, "t.tsv": edit_table, "t.jsonl": edit_json_lines}
    allowed = ("a file of the system without a size",)  # it is a text
    return [Sample({name: text.encode()}, name, edits[name], allowed=allowed) for name, text in texts.items()]


def _read_texts(folder: Path) -> Seen:
    (path,) = [path for path in folder.iterdir() if path.stem == "t"] or [folder / "t.txt"]
    lines = read_lines(path)
    return Seen(repr(lines), told=any(line.notes for line in lines))


def any_json(value: Any) -> bytes:
    """Write a document as ttstrain does."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


READERS = (
    Reader(
        "csv, tsv", _tables("metadata.csv", edit_table, *_CSV), _read_table("metadata.csv", line_by_line=False), 250
    ),
    Reader(".list", _tables("train.list", edit_table, *_LIST), _read_table("train.list", line_by_line=False), 150),
    Reader(
        "jsonl",
        _tables("metadata.jsonl", edit_json_lines, *_JSONL),
        _read_table("metadata.jsonl", line_by_line=True),
        300,
    ),
    Reader("WebDataset shards", _shards, _read_table("train-000.tar", line_by_line=False), 300),
    Reader("yaml recipe", _recipes, _read_recipe, 250),
    Reader("lists of clips", _manifests, _read_manifest, 400),
    Reader("cut clips and their review", _cuts, _read_cuts, 300),
    Reader("texts to say", _texts, _read_texts, 400),
)
