from __future__ import annotations

import json
import platform
from importlib import metadata
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import ttstrain
from ttstrain.cli.main import app
from ttstrain.plan.json_schema import recipe_schema

run = CliRunner().invoke


def test_the_schema_is_printed_or_written(tmp_path: Path) -> None:
    assert json.loads(run(app, ["schema"]).stdout) == recipe_schema()
    assert run(app, ["schema", "-o", str(tmp_path / "s.json")]).stdout == ""
    assert json.loads((tmp_path / "s.json").read_text(encoding="utf-8")) == recipe_schema()


def test_a_schema_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    shown = run(app, ["schema", "-o", str(tmp_path / "none" / "s.json")])
    assert shown.exit_code == 2
    assert "cannot write" in shown.stderr


def test_the_environment_is_told_for_scripts() -> None:
    found = json.loads(run(app, ["env", "--json"]).stdout)
    assert found["ttstrain"] == ttstrain.__version__
    assert found["python"] == platform.python_version()
    assert found["packages"]["torch"] == metadata.version("torch")
    assert len(found["devices"]) == torch.cuda.device_count()
    assert found["cpu_threads"] == torch.get_num_threads()


def test_the_environment_is_told_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    said = run(app, ["env"]).stdout
    assert f"ttstrain  {ttstrain.__version__}" in said
    assert f"torch {metadata.version('torch')}" in said
