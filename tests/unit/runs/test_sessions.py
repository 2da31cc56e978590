"""Every start of a run leaves a record, and another version than at the last start is told."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import ttstrain
from ttstrain import environment
from ttstrain.recipe.schema import DebugConfig
from ttstrain.runs import sessions


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sessions, "recipe_yaml", lambda plan: plan.yaml)
    recipe = SimpleNamespace(debug=DebugConfig())
    return SimpleNamespace(recipe=recipe, facts=SimpleNamespace(texts=None), yaml="first", to_json=lambda: {"steps": 5})


def read(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "env.json").read_text())
    return values


def test_each_start_keeps_its_recipe_plan_and_environment(
    tmp_path: Path, plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, command in enumerate((["finetune", "a"], ["resume", "b", "optim.lr=1"]), start=1):
        monkeypatch.setattr(sys, "argv", ["ttstrain", *command])
        plan.yaml = f"start {number}"
        from_ = None if number == 1 else Path("b/checkpoints/step-00000004")
        assert sessions.write_description(tmp_path, plan, goes_on_from=from_) == []
    first, second = sessions.sessions(tmp_path)
    assert (first.name, second.name) == ("0001", "0002")
    assert [(place / "recipe.yaml").read_text() for place in (first, second)] == ["start 1", "start 2"]
    assert [read(place)["command"] for place in (first, second)] == [["finetune", "a"], ["resume", "b", "optim.lr=1"]]
    assert [read(place)["goes_on_from"] for place in (first, second)] == [None, "b/checkpoints/step-00000004"]
    assert read(first)["run_id"] == read(second)["run_id"]
    assert read(tmp_path) == read(second)
    assert sessions.began_from_elsewhere(tmp_path) is None


def test_a_moved_folder_keeps_the_runs_id_and_a_copy_gets_its_own(tmp_path: Path, plan: Any) -> None:
    first, moved, copy = (tmp_path / name for name in ("first", "moved", "copy"))
    first.mkdir()
    sessions.write_description(first, plan)
    run_id = read(first)["run_id"]
    first.rename(moved)
    assert sessions.write_description(moved, plan) == []
    assert read(moved)["run_id"] == run_id
    shutil.copytree(moved, copy)
    (note,) = sessions.write_description(copy, plan)
    assert f"a copy of `{moved}`" in note
    own = read(copy)["run_id"]
    assert own != run_id
    assert sessions.write_description(copy, plan) == sessions.write_description(moved, plan) == []
    assert (read(copy)["run_id"], read(moved)["run_id"]) == (own, run_id)


def test_a_run_from_before_there_were_records_keeps_what_it_was(tmp_path: Path, plan: Any) -> None:
    old = {"recipe.yaml": "old", "plan.json": "{}", "env.json": '{"run_id": "x", "command": ["finetune"]}'}
    for name, text in old.items():
        (tmp_path / name).write_text(text)
    sessions.write_description(tmp_path, plan)
    first, second = sessions.sessions(tmp_path)
    assert {path.name: path.read_text() for path in first.iterdir()} == old
    assert (second / "recipe.yaml").read_text() == "first"
    assert read(second)["run_id"] == "x"


@pytest.mark.parametrize(
    ("then", "told"),
    [
        ({"ttstrain": "0.0.1"}, f"ttstrain 0.0.1 then, {ttstrain.__version__} now"),
        ({"packages": {"torch": "1.0"}}, "torch 1.0 then, "),
        ({"commit": "a" * 40}, f"commit {'a' * 40} then, {'b' * 40} now"),
    ],
)
def test_another_version_than_at_the_last_start_is_told(
    tmp_path: Path, plan: Any, monkeypatch: pytest.MonkeyPatch, then: dict[str, Any], told: str
) -> None:
    monkeypatch.setattr(environment, "_commit", lambda: "b" * 40)
    sessions.write_description(tmp_path, plan)
    (tmp_path / "env.json").write_text(json.dumps(read(tmp_path) | then))
    (note,) = sessions.write_description(tmp_path, plan)
    assert told in note
    assert sessions.write_description(tmp_path, plan) == []


def test_another_switch_of_the_cpus_kernels_than_at_the_last_start_is_told(
    tmp_path: Path, plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions.write_description(tmp_path, plan)
    assert read(tmp_path)["cpu_kernels"] is True
    monkeypatch.setenv("TTSTRAIN_CPU_KERNELS", "0")
    (note,) = sessions.write_description(tmp_path, plan)
    assert "TTSTRAIN_CPU_KERNELS was 1 at this run's last start and is 0 now" in note
    assert sessions.write_description(tmp_path, plan) == []


def test_the_commit_is_that_of_a_checkout_and_says_whether_files_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ttstrain" / "__init__.py"
    file.parent.mkdir()
    file.touch()
    monkeypatch.setattr(environment.ttstrain, "__file__", str(file))
    assert environment._commit() is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.example"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert environment._commit() == commit
    file.write_text("x = 1")
    assert environment._commit() == f"{commit}-dirty"
    monkeypatch.setenv("PATH", "")
    assert environment._commit() is None
