"""Installed from a wheel, outside any checkout, ttstrain finds what it ships."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, REPO]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into a folder of its own; everything it depends on comes from this environment."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--target", folder, wheel], check=True)
    return folder


def run(installed: Path, folder: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed), "COLUMNS": "80"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_carries_recipes_configs_and_speech_but_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for kind in ("recipes", "configs"):
        shipped = {name.split(f"_shipped/{kind}/")[1] for name in names if f"_shipped/{kind}/" in name}
        assert shipped >= {path.relative_to(REPO / kind).as_posix() for path in (REPO / kind).rglob("*.yaml")} > set()
    assert "ttstrain/_demo/metadata.jsonl" in names
    assert {f"ttstrain/judge/_weights/{name}" for name in ("ge2e.safetensors", "NOTICE", "LICENSE.ge2e")} <= set(names)
    assert "ttstrain/_voice/LICENSE.txt" in names
    page = {path.name for path in (REPO / "ttstrain" / "report" / "page").iterdir()}
    assert (
        {name for name in names if "report/page/" in name} >= {f"ttstrain/report/page/{name}" for name in page} > set()
    )
    assert sum(name.endswith(".ogg") for name in names) == 96 + 29  # demo and voice
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "scripts/"))]


def test_the_installed_copy_is_the_one_that_runs(installed: Path, tmp_path: Path) -> None:
    where = run(installed, tmp_path, sys.executable, "-c", "import ttstrain; print(ttstrain.__file__)")
    assert Path(where.strip()).is_relative_to(installed)


def test_installed_command_lists_recipes(installed: Path, tmp_path: Path) -> None:
    assert "quickstart" in run(installed, tmp_path, str(installed / "bin" / "ttstrain"), "recipes", "list")


def test_installed_command_plans_the_quickstart(installed: Path, tmp_path: Path) -> None:
    plan = run(installed, tmp_path, str(installed / "bin" / "ttstrain"), "plan", "quickstart")
    assert "package:small_f5" in plan
    assert "27 clips" in plan  # the voice without its 2 held-out clips
    assert not list(tmp_path.iterdir())  # planning writes nothing where it is called
