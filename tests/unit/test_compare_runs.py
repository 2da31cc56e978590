"""scripts/compare_runs.py: equal runs are called equal, and the first difference is named."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "compare_runs.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compare_runs", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Two equal runs, as `--make` leaves them, made at different hours from clips in different folders."""
    for side in "ab":
        run = tmp_path / side / "smoke-flow" / "flow-1"
        for step in (1, 2):
            checkpoint = run / "checkpoints" / f"step-0000000{step}"
            checkpoint.mkdir(parents=True)
            save_file({"w": torch.tensor([0.0, 1.0]), "v": torch.tensor([3])}, checkpoint / "weights.safetensors")
            write_json(checkpoint / "meta.json", {"step": step, "time": f"hour {side}", "torch": side, "lr": 0.1})
            write_json(checkpoint / "loader.json", {"index": step, "excluded": ["c"], "best": [math.nan, {"at": 1}]})
        for pointer in ("last", "best"):
            (run / "checkpoints" / pointer).write_text("step-00000002\n")
        rows = [{"step": step, "train/loss/total": 1 / step, "time/step_s": 0.1} for step in (1, 2)]
        (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
        (run / "data").mkdir()
        write_json(run / "data" / "train.jsonl", {"id": "c", "path": f"/{side}/c.wav", "text": "one"})
        write_json(run / "env.json", {"time": side})
        (run / "samples").mkdir()
        (run / "samples" / "c.wav").write_bytes(b"sound")
    return tmp_path / "a" / "smoke-flow" / "flow-1", tmp_path / "b" / "smoke-flow" / "flow-1"


def write_json(file: Path, values: dict[str, Any]) -> None:
    file.write_text(json.dumps(values))


def test_equal_runs_are_equal_whatever_time_they_took(script: ModuleType, runs: tuple[Path, Path]) -> None:
    metrics = runs[1] / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"time/step_s": 0.1', '"time/step_s": 0.2'))
    assert script.difference(*runs) is None


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [("0.5", "0.50001", "line 2: train/loss/total is 0.5"), ("0.5", "NaN", "line 2"), ('"step": 2, ', "", "only one")],
)
def test_a_row_that_differs_is_named(
    script: ModuleType, runs: tuple[Path, Path], before: str, after: str, said: str
) -> None:
    metrics = runs[1] / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace(before, after))
    assert said in script.difference(*runs)


@pytest.mark.parametrize("step", [1, 2])
def test_a_single_bit_of_a_tensor_is_a_difference(script: ModuleType, runs: tuple[Path, Path], step: int) -> None:
    file = runs[1] / "checkpoints" / f"step-0000000{step}" / "weights.safetensors"
    save_file({**load_file(file), "w": torch.tensor([-0.0, 1.0])}, file)
    assert script.difference(*runs) == f"step-0000000{step}/weights.safetensors: w differs"


@pytest.mark.parametrize(
    ("file", "before", "after", "said"),
    [
        ("checkpoints/step-00000002/loader.json", '"index": 2', '"index": 3', "loader.json: index is 2 and 3"),
        ("checkpoints/step-00000002/loader.json", '"at": 1', '"at": 2', "loader.json: best/1/at is 1 and 2"),
        ("checkpoints/step-00000002/loader.json", '["c"]', "[]", "loader.json: excluded is ['c'] and []"),
        ("checkpoints/step-00000002/meta.json", '"lr": 0.1', '"lr": 0.2', "meta.json: lr is 0.1 and 0.2"),
        ("checkpoints/step-00000002/meta.json", ', "lr": 0.1', "", "meta.json: only one has lr"),
        ("checkpoints/best", "2", "1", "best: differs"),
        ("checkpoints/last", "2", "1", "last: differs"),
        ("data/train.jsonl", "one", "two", "data/train.jsonl: 0/text is 'one' and 'two'"),
        ("samples/c.wav", "sound", "noise", "samples/c.wav: differs"),
    ],
)
def test_whatever_decides_how_a_run_goes_on_is_compared(
    script: ModuleType, runs: tuple[Path, Path], *, file: str, before: str, after: str, said: str
) -> None:
    text = (runs[1] / file).read_text()
    assert before in text
    (runs[1] / file).write_text(text.replace(before, after))
    assert said in script.difference(*runs)


@pytest.mark.parametrize("side", [0, 1])
def test_any_file_that_one_side_lacks_is_a_difference(script: ModuleType, runs: tuple[Path, Path], side: int) -> None:
    files = [path.relative_to(runs[0]) for path in sorted(runs[0].rglob("*")) if path.is_file()]
    assert len(files) == 12
    for file in files:
        content = (runs[side] / file).read_bytes()
        (runs[side] / file).unlink()
        found = script.difference(*runs)
        assert found.endswith("is not a run" if file.name == "metrics.jsonl" else f"only one has {file}")
        (runs[side] / file).write_bytes(content)
    assert script.difference(*runs) is None


def test_two_runs_in_one_place_are_refused(script: ModuleType, runs: tuple[Path, Path]) -> None:
    shutil.copytree(runs[1], runs[1].with_name("flow-2"))
    with pytest.raises(SystemExit, match="holds more than one run"):
        list(script.matched(runs[0].parents[1], runs[1].parents[1]))


def test_a_run_that_one_side_lacks_is_a_difference(script: ModuleType, runs: tuple[Path, Path]) -> None:
    shutil.rmtree(runs[1])
    ((name, a, b),) = script.matched(runs[0].parents[1], runs[1].parents[1])
    assert name == "smoke-flow"
    assert "is not a run" in script.difference(a, b)


def test_pictures_are_compared_by_what_they_show(script: ModuleType, tmp_path: Path) -> None:
    picture = Image.linear_gradient("L").convert("RGB")
    one, other, changed = (tmp_path / f"{name}.png" for name in "abc")
    picture.save(one, compress_level=0)
    picture.save(other, compress_level=9)
    assert one.read_bytes() != other.read_bytes()
    assert script.differing_content(one, other) is None
    picture.putpixel((3, 3), (255, 0, 0))
    picture.save(changed)
    assert script.differing_content(one, changed) == "shows something else"
