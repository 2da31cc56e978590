from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchaudio

from ttstrain.contract.data import Clip, Treatment
from ttstrain.data.manifest import read_manifest, write_manifest
from ttstrain.errors import DataError


def clip(**changes: object) -> Clip:
    values: dict[str, object] = {
        "id": "a",
        "path": Path("wavs/größe 'a'.wav"),
        "text": "你好 “x”",
        "duration_s": 1.5,
        "sample_rate": 22050,
        "source": "metadata.csv:1",
        "treatment": Treatment(channel=1, gain=2.5, offset=-0.1, start=10, end=33085),
        "notes": ("very_quiet: up",),
        "digest": "ab",
    }
    return Clip(**(values | changes))  # type: ignore[arg-type]


def test_clips_come_back_as_they_were_written(tmp_path: Path) -> None:
    clips = [clip(), clip(id="b", path=Path("bad\udce9name.wav"), treatment=Treatment(end=5), notes=())]
    write_manifest(tmp_path / "m.jsonl", clips)
    assert read_manifest(tmp_path / "m.jsonl") == [replace(clip, path=clip.path.absolute()) for clip in clips]


def test_a_line_that_is_no_clip_is_named(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.jsonl", [clip()])
    with (tmp_path / "m.jsonl").open("a") as file:
        file.write('{"id": "b"\n')
    with pytest.raises(DataError, match="line 2"):
        read_manifest(tmp_path / "m.jsonl")


@pytest.mark.parametrize("rates", [(22050, 24000), (48000, 24000), (16000, 24000), (44100, 16000), (8000, 32000)])
@pytest.mark.parametrize("samples", [1, 441, 22049, 100_003])
def test_length_at_another_rate_is_what_resampling_gives(rates: tuple[int, int], samples: int) -> None:
    described = clip(sample_rate=rates[0], treatment=Treatment(start=7, end=7 + samples))
    resampled = torchaudio.functional.resample(torch.zeros(samples), *rates)
    assert described.samples_at(rates[1]) == len(resampled)


@pytest.mark.parametrize(
    "line",
    [
        '"x"',
        "[]",
        "null",
        "{}",
        '{"id": "a", "path": 1, "text": "", "duration_s": 1, "sample_rate": 1, "treatment": {}}',
        '{"id": "a", "path": "", "text": "", "duration_s": 1, "sample_rate": 1, "treatment": "x"}',
        '{"id": "a", "path": "", "text": "", "duration_s": 1, "sample_rate": 1, "treatment": {}, "notes": 3}',
        '{"id": "a", "path": "", "text": "", "duration_s": 1, "sample_rate": 1, "treatment": {}, "ready": [1]}',
        '{"id": "caf\udcc3',
        "[" * 5000,
    ],
)
def test_a_line_of_another_kind_is_no_clip(line: str, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(line.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=r"train\.jsonl` (line 1 is not a clip|cannot be read)"):
        read_manifest(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"sample_rate": 0},
        {"sample_rate": -1},
        {"duration_s": -1.0},
        {"speaker": 5},
        {"digest": None},
        {"notes": "text"},
        {"tokens": [1]},
        {"path": "a\0b.wav"},
        {"ready": [["codes", "", "", [1.5]]]},
        {"ready": [["codes", None, "", []]]},
        {"treatment": {"channel": "x"}},
        {"treatment": {"channel": -1}},
        {"treatment": {"gain": None}},
        {"treatment": {"start": 10, "end": 5}},
        {"treatment": {"start": "0"}},
        {"treatment": {"end": 1.5}},
    ],
)
def test_values_that_no_clip_has_are_refused_with_their_line(changes: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write_manifest(path, [clip(), clip(id="b")])
    first, second, _ = path.read_text(encoding="utf-8").split("\n")
    path.write_text(first + "\n" + json.dumps({**json.loads(second), **changes}) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 2 is not a clip"):
        read_manifest(path)
