"""`ttstrain prepare` through the real command line."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from small_runs import ttstrain

RECIPE = """
task: flow
model: {dim: 32, depth: 1, heads: 1, dim_head: 32, text_dim: 32}
data: {max_s: 3.0}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    root.mkdir()
    rng = np.random.default_rng(0)
    for name, seconds in (("good", 1.5), ("quiet", 2.0), ("long", 3.5)):
        t = np.arange(int(seconds * 16_000)) / 16_000
        wave = rng.normal(0, 0.1, len(t)) * np.sin(np.pi * 4 * t) ** 2
        soundfile.write(root / f"{name}.wav", wave * (0.02 if name == "quiet" else 1), 16_000, subtype="FLOAT")
    rows = ("good|a good sentence", "quiet|this one is very quiet", "long|and this one is too long", "gone|x", "")
    (root / "metadata.csv").write_text("\n".join(rows))
    (tmp_path / "r.yaml").write_text(RECIPE)
    return root


def prepare(*arguments: str | Path, cache: Path) -> subprocess.CompletedProcess[str]:
    return ttstrain("prepare", *arguments, TTSTRAIN_CACHE=str(cache))


def test_prepare_checks_the_data_and_caches_features(folder: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    first = prepare(folder, "--recipe", recipe, "-o", tmp_path / "out", cache=tmp_path / "cache")
    assert first.returncode == 0, first.stderr
    assert "4 read, 2 used" in first.stdout
    for reason in ("missing_file", "too_long", "very_quiet"):
        assert reason in first.stdout
    assert "2 computed, 0 already there" in first.stdout
    clips = [json.loads(line) for line in (tmp_path / "out/manifest.jsonl").read_text().splitlines()]
    assert [clip["id"] for clip in clips] == ["good", "quiet"]
    left_out = [json.loads(line) for line in (tmp_path / "out/quarantine.jsonl").read_text().splitlines()]
    assert {(entry["id"], entry["action"]) for entry in left_out} == {
        ("gone", "skip"),
        ("long", "skip"),
        ("quiet", "fix"),
    }
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 2

    again = prepare(folder, "--recipe", recipe, "--json", cache=tmp_path / "cache")
    document = json.loads(again.stdout)
    assert document["features"] == document["features"] | {"computed": 0, "reused": 2, "failed": {}}
    assert document["skipped"] == {"missing_file": 1, "too_long": 1}
    assert (document["format"], document["rows"], document["clips"]) == ("ljspeech", 4, 2)


def test_processes_share_one_cache_and_one_summary(folder: Path, tmp_path: Path) -> None:
    recipe, alone, shared = tmp_path / "r.yaml", tmp_path / "alone", tmp_path / "shared"
    arguments = (folder, "data.max_s=10", "--recipe", recipe)
    first = prepare(*arguments, cache=alone)
    done = prepare(*arguments, "--nproc", "2", cache=shared)
    assert done.returncode == 0, done.stderr
    assert done.stdout.replace(str(shared), str(alone)) == first.stdout
    assert _features(shared) == _features(alone)
    next((shared / "features").rglob("*.safetensors")).unlink()
    again = json.loads(prepare(*arguments, "--nproc", "2", "--json", cache=shared).stdout)
    assert (again["features"]["computed"], again["features"]["reused"]) == (1, 2)


def test_an_error_of_the_data_is_told_once_and_ends_all_processes(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    failed = prepare(tmp_path / "none", "--recipe", tmp_path / "r.yaml", "--nproc", "2", cache=tmp_path / "cache")
    assert failed.returncode == 3
    assert failed.stderr.count("error:") == 1


def _features(cache: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (cache / "features").rglob("*.safetensors")}


def test_an_override_reaches_the_audit(folder: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    done = prepare(folder, "data.max_s=10", "--recipe", recipe, "--json", cache=tmp_path / "cache")
    assert json.loads(done.stdout)["clips"] == 3


def test_bad_data_leave_with_3_and_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = prepare(tmp_path / "empty", "--json", cache=tmp_path / "cache")
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "\nhint: " in done.stderr


def test_the_demo_speech_is_sound(tmp_path: Path) -> None:
    done = prepare("package:demo", "--json", cache=tmp_path / "cache")
    document = json.loads(done.stdout)
    assert document["clips"] == document["rows"] > 50
    assert document["skipped"] == document["fixed"] == {}
