"""What the package says about itself holds together."""

from __future__ import annotations

import re
from importlib.metadata import metadata
from pathlib import Path

import ttstrain

REPO = Path(__file__).resolve().parents[2]
EXTRA = re.compile(r"ttstrain\[([\w,]+)\]")


def test_every_extra_a_hint_or_a_guide_names_exists() -> None:
    offered = {extra.replace("-", "_") for extra in metadata("ttstrain").get_all("Provides-Extra") or []}
    files = [*(REPO / "ttstrain").rglob("*.py"), *REPO.glob("*.md"), *(REPO / "docs").rglob("*.md")]
    named = {
        extra
        for path in files
        for extras in EXTRA.findall(path.read_text(encoding="utf-8"))
        for extra in extras.split(",")
    }
    assert named
    assert named <= offered


def test_the_gpl_extra_is_not_part_of_another() -> None:
    wanted = [
        requirement for requirement in metadata("ttstrain").get_all("Requires-Dist") or [] if "espeak" in requirement
    ]
    assert wanted
    assert all('extra == "demo"' in requirement.replace("'", '"') for requirement in wanted)
    imports = [
        path for path in (REPO / "ttstrain").rglob("*.py") if "espeakng_loader" in path.read_text(encoding="utf-8")
    ]
    assert not imports


def test_constraints_name_no_host_and_no_path() -> None:
    lines = (REPO / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    python = r'python_version [<>=]+ "[\d.]+"'
    assert all(re.fullmatch(rf"[a-z0-9-]+==[\w.]+( ; {python}( or {python})*)?", pin) for pin in pins)


def test_version_is_the_package_metadata_version() -> None:
    assert metadata("ttstrain")["Version"] == ttstrain.__version__
