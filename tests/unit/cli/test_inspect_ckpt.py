"""`ttstrain inspect-ckpt` through the real command line."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ttstrain.cli.main import main


def run(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["ttstrain", "inspect-ckpt", *arguments])
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as left:
        main()
    captured = capsys.readouterr()
    return int(left.value.code or 0), captured.out, captured.err


@pytest.fixture(scope="session")
def layouts(fixtures_dir: Path) -> Path:
    return fixtures_dir / "f5_ckpt_layouts"


def test_json_is_the_whole_of_stdout(
    layouts: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = run([str(layouts / "model_10.pt"), "--json"], capsys, monkeypatch)
    assert (code, err) == (0, "")
    assert json.loads(out)["step"] == 10


def test_people_get_eighty_columns_with_the_facts_that_matter(
    layouts: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run([str(layouts / "old_step_style" / "model_10.pt")], capsys, monkeypatch)
    assert code == 0
    body = out.splitlines()[1:]
    assert max(map(len, body)) <= 80
    assert not any(line.endswith(" ") for line in body if not line.startswith(("group", "default")))
    for part in ("training, family flow", "20,596 parameters", "0.000455", "1.86%", "v0 or v1", "all finite"):
        assert part in out


def test_the_end_of_a_schedule_is_shown_with_its_rate(
    layouts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = torch.load(layouts / "model_10.pt", weights_only=True)
    content["scheduler_state_dict"] |= {"last_epoch": 15, "_last_lr": [1e-12]}
    torch.save(content, tmp_path / "model_15.pt")
    code, out, _ = run([str(tmp_path / "model_15.pt")], capsys, monkeypatch)
    assert code == 0
    assert "ended, at 15: next LR 1e-12" in out


def test_tensors_and_differences_are_listed(
    layouts: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run([str(layouts / "model_10.pt"), "--tensors", "*proj_out.bias"], capsys, monkeypatch)
    assert code == 0
    assert "transformer.proj_out.bias" in out
    code, out, _ = run([str(layouts / "model_10.pt"), "--tensors", "*proj_out.bias", "--json"], capsys, monkeypatch)
    assert {entry["name"] for entry in json.loads(out)} == {
        "transformer.proj_out.bias",
        "ema/transformer.proj_out.bias",
    }
    both = [str(layouts / "model_10.pt"), str(layouts / "ema_only" / "model_10.pt")]
    code, out, _ = run(both, capsys, monkeypatch)
    assert code == 0
    assert "53 changed" in out
    drawn = [line for line in out.splitlines() if "█" in line or "▏" in line]
    assert len(drawn) > 10
    assert max(len(line) for line in drawn) == 80  # the longest bar ends at the edge
    assert max(map(len, out.splitlines()[2:])) == 80
    code, out, _ = run([*both, "--json"], capsys, monkeypatch)
    found = json.loads(out)
    assert found["equal"] == 1
    moved = {module["name"]: module["distance"] for module in found["modules"]}
    longest = max(moved, key=lambda name: moved[name] or 0.0)
    assert next(line for line in drawn if len(line) == 80).startswith(longest)


class Bomb:
    def __reduce__(self) -> Any:
        return os.system, ("touch exploded",)


class Unknown:
    pass


def test_an_unsafe_file_is_shown_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"w": torch.ones(2), "x": Bomb()}, tmp_path / "x.pt")
    code, out, _ = run(["x.pt"], capsys, monkeypatch)
    assert code == 0
    assert "UNSAFE" in out
    assert "posix.system" in out
    assert "UNKNOWN" not in out
    torch.save({"w": torch.ones(2), "x": Unknown()}, tmp_path / "y.pt")
    _, out, _ = run(["y.pt"], capsys, monkeypatch)
    assert "UNKNOWN: do not load it elsewhere" in out
    assert "names, safe" not in out
    assert not (tmp_path / "exploded").exists()


def test_an_unreadable_file_leaves_with_four_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.pt").write_text("<html>404</html>")
    code, out, err = run([str(tmp_path / "x.pt")], capsys, monkeypatch)
    assert (code, out) == (4, "")
    assert err.startswith("error: ")
    assert "web page" in err
    assert "hint: " in err
