"""A damaged checkpoint of ours is found wherever it is used, and the sound one before it is named."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ttstrain.checkpoint import store
from ttstrain.checkpoint.inspect import inspect
from ttstrain.checkpoint.meta import Meta, read_meta, write_meta
from ttstrain.checkpoint.store import CheckpointStore
from ttstrain.checkpoint.upstream import open_checkpoint, open_own, resolve_base
from ttstrain.errors import CheckpointError


def make_meta(step: int, **changes: object) -> Meta:
    values = {"family": "flow", "task": "flow", "model": {"dim": 4}, "recipe": "toy", "step": step, **changes}
    return Meta(**values)  # type: ignore[arg-type]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    checkpoints = CheckpointStore(tmp_path / "a run", keep_last=9, background=False)
    for step in (2, 4, 6):
        weights = {"w": torch.full((500,), float(step))}
        checkpoints.save(step, {"task": weights, "ema": {"weights": dict(weights), "updates": step}}, make_meta(step))
    return tmp_path / "a run"


def checkpoint(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def test_a_damaged_run_is_no_base(run: Path) -> None:
    assert open_checkpoint(resolve_base(str(run)), task="flow").step == 6
    flip(checkpoint(run, 6) / "weights.safetensors")
    with pytest.raises(CheckpointError, match=r"weights\.safetensors` is damaged"):
        open_checkpoint(resolve_base(str(run)), task="flow")
    with pytest.raises(CheckpointError, match=r"weights\.safetensors` is damaged"):
        open_own(checkpoint(run, 6))
    assert open_own(checkpoint(run, 6), damaged="show").step == 6


def test_the_average_is_looked_at_too(run: Path) -> None:
    flip(checkpoint(run, 6) / "ema.safetensors")
    with pytest.raises(CheckpointError, match=r"ema\.safetensors` is damaged"):
        open_checkpoint(run)


@pytest.mark.parametrize("name", ["weights.safetensors", "ema.safetensors"])
def test_inspecting_says_which_file_is_damaged(run: Path, name: str) -> None:
    assert inspect(run).damaged == []
    flip(checkpoint(run, 6) / name)
    found = inspect(run)
    assert found.damaged == [name]
    assert any(note.startswith("DAMAGED: ") and name in note for note in found.notes)


def test_the_error_names_the_sound_one_before_it_and_the_command(run: Path) -> None:
    flip(checkpoint(run, 6) / "weights.safetensors")
    flip(checkpoint(run, 4) / "weights.safetensors")
    for use in (store.load, open_checkpoint, lambda folder: store.load_part(folder, "task")):
        with pytest.raises(CheckpointError) as caught:
            use(checkpoint(run, 6))  # type: ignore[operator]
        assert caught.value.hint is not None
        assert "`step-00000002` is intact" in caught.value.hint
        assert f"`ttstrain resume '{run}' --from step-00000002`" in caught.value.hint
    shutil.rmtree(checkpoint(run, 2))
    with pytest.raises(CheckpointError) as caught:
        store.load(checkpoint(run, 6))
    assert "no other checkpoint of this run is intact" in str(caught.value.hint)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace('"step": 6', '"step": 7'),
        lambda text: text.replace('"dim": 4', '"dim": 5'),
        lambda text: text.replace("flow", "flov", 1),
        lambda text: text.replace('"digest"', '"digesu"'),
        lambda text: text[:-40],
        lambda text: "[" * 5000,
        lambda text: text.replace("flow", "\udcff\udcfe", 1),
        lambda text: text.replace('"schema": 1', '"schema": 1, "schema": 1'),
        lambda text: "{}",
        lambda text: '{"schema": "1"}',
        lambda text: "",
    ],
)
def test_a_damaged_meta_is_found(run: Path, damage: Callable[[str], str]) -> None:
    path = checkpoint(run, 6) / "meta.json"
    text = path.read_text(encoding="utf-8")
    path.write_bytes(damage(text).encode("utf-8", "surrogateescape"))
    assert damage(text) != text
    with pytest.raises(CheckpointError, match=r"meta\.json") as caught:
        store.load(checkpoint(run, 6))
    assert "`step-00000004` is intact" in str(caught.value.hint)
    with pytest.raises(CheckpointError, match=r"meta\.json"):
        inspect(run)


def test_a_meta_that_has_no_digest_yet_is_read(run: Path) -> None:
    path = checkpoint(run, 6) / "meta.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    assert len(values.pop("digest")) == 64
    path.write_text(json.dumps(values), encoding="utf-8")
    assert store.load(checkpoint(run, 6)).meta.step == 6


@pytest.mark.parametrize("field", ["files", "parts"])
def test_a_meta_cannot_name_files_elsewhere(run: Path, field: str) -> None:
    path = checkpoint(run, 6) / "meta.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    del values["digest"]
    outside = "../../../secret"
    values[field] = {outside: {"bytes": 1, "sha256": ""}} if field == "files" else [outside]
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(CheckpointError, match="not a file in its folder"):
        store.load(checkpoint(run, 6))


def test_a_measurement_that_is_no_number_comes_back(tmp_path: Path) -> None:
    write_meta(tmp_path, make_meta(1, metrics={"eval/loss/total": math.nan, "a": math.inf}))
    metrics = read_meta(tmp_path).metrics
    assert math.isnan(metrics["eval/loss/total"])
    assert metrics["a"] == math.inf
