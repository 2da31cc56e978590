"""`ttstrain prepare` for GPT-SoVITS: recordings in three languages, and a folder that upstream's own steps prepared."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import soundfile
import sovits_toys
import torch
from small_runs import ttstrain, write_clips

from ttstrain.data.audio import read_clip
from ttstrain.data.audit import audit
from ttstrain.data.readers import read_rows
from ttstrain.families.gpt_sovits.config import JointConfig
from ttstrain.families.gpt_sovits.data import SovitsData
from ttstrain.families.gpt_sovits.features.tokens import CODEBOOK
from ttstrain.families.gpt_sovits.text.symbols import symbols
from ttstrain.recipe.schema import DataConfig


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Three clips as upstream would leave them, the first with HuBERT's features of another recording."""
    folder = write_clips(tmp_path / "clips", count=3)
    data = SovitsData(JointConfig.model_validate({"features": dict(sovits_toys.FEATURES)}))
    table = symbols("v2")
    recordings, phones, codes, ssl, texts = {}, {}, {}, {}, {}
    for clip in audit(read_rows(folder), DataConfig(path=str(folder), min_s=0.1)).clips:
        name = f"{clip.id}.wav"
        features = data.features(read_clip(clip, 32_000), clip)
        recordings[name] = tmp_path / f"32k-{name}"
        soundfile.write(recordings[name], features["wav"].numpy(), 32_000)
        phones[name] = tuple(table[i] for i in features["phones"].tolist())
        codes[name] = features["codes"].tolist()
        ssl[name] = data.encoders.hear(features["wav"].float() / 32_768).T[None].half()
        texts[name] = clip.text
    ssl[min(ssl)] = ssl[min(ssl)][..., :-9]
    return sovits_toys.write_project(
        tmp_path / "exp", recordings, phones, codes=codes, tensors={"4-cnhubert": ssl}, texts=texts
    )


def test_a_prepared_folder_is_read_and_its_faults_are_named(project: Path, tmp_path: Path) -> None:
    recipe = sovits_toys.write_recipe(tmp_path / "recipe.yaml", "joint")
    done = ttstrain("prepare", project, "--recipe", recipe, "--out", tmp_path / "out", "data.min_s=0.1")
    assert done.returncode == 0, done.stderr
    assert "(preparedfolderofGPT-SoVITS," in "".join(done.stdout.split())  # behind a long path the line is broken
    assert "features  2 computed, 1 failed" in done.stdout
    assert "HuBERT features (" in (tmp_path / "out" / "quarantine.jsonl").read_text()
    assert len((tmp_path / "out" / "manifest.jsonl").read_text().splitlines()) == 2
    assert all(len(line) <= 80 for line in done.stdout.splitlines() if str(tmp_path) not in line)
    again = ttstrain("prepare", project, "--recipe", recipe, "--json", "data.min_s=0.1")
    assert json.loads(again.stdout)["features"]["reused"] == 2


def test_data_of_another_quantizer_are_bad_data(project: Path, tmp_path: Path) -> None:
    path = sovits_toys.write_s2g(tmp_path / "s2G.pth")
    document = torch.load(path)
    document["weight"][CODEBOOK] = document["weight"][CODEBOOK].flip(0)
    torch.save(document, path)
    recipe = sovits_toys.write_recipe(tmp_path / "recipe.yaml", "gpt")
    done = ttstrain("prepare", project, "--recipe", recipe, "data.min_s=0.1", f"model.features.quantizer={path}")
    assert done.returncode == 3
    assert "error: no clip has features" in done.stderr


@pytest.mark.parametrize(("name", "language"), [("ljspeech-mini", "en"), ("zh-fleurs", "zh"), ("ja-commonvoice", "ja")])
def test_recordings_of_three_languages_become_features(
    shared_data: Path, tmp_path: Path, name: str, language: str
) -> None:
    recipe = sovits_toys.write_recipe(tmp_path / "recipe.yaml", "joint")
    done = ttstrain("prepare", shared_data / name, "--recipe", recipe)
    assert done.returncode == 0, done.stderr
    read = re.search(r"read as (\w+) \((\d+)\)$", done.stdout, re.MULTILINE)
    assert read is not None
    assert read[1] == language
    assert f"features  {read[2]} computed, 0 already there" in done.stdout
    assert "left out" not in done.stdout
