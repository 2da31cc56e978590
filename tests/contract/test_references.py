"""What a family's references say where a package is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

import ttstrain.families
from ttstrain.contract.family import load_reference
from ttstrain.errors import RecipeError


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Add a family whose modules can be written."""
    monkeypatch.setattr(ttstrain.families, "__path__", [*ttstrain.families.__path__, str(tmp_path)])
    (tmp_path / "odd_family").mkdir()
    (tmp_path / "odd_family" / "__init__.py").touch()
    return tmp_path / "odd_family"


def test_a_missing_package_is_named_with_the_extra_of_its_family(odd: Path) -> None:
    (odd / "task.py").write_text("import no_such_package.inside\n")
    with pytest.raises(RecipeError, match="`odd_family` needs the package `no_such_package`") as caught:
        load_reference("ttstrain.families.odd_family.task:Task")
    assert caught.value.hint == "pip install 'ttstrain[odd_family]'"


def test_a_missing_module_of_ours_is_a_defect(odd: Path) -> None:
    (odd / "broken.py").write_text("import ttstrain.no_such_module\n")
    with pytest.raises(ModuleNotFoundError):
        load_reference("ttstrain.families.odd_family.broken:Task")
