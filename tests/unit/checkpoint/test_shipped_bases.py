"""A base that ships with ttstrain is named `package:NAME` wherever a checkpoint can be named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ttstrain.checkpoint.merging import open_base
from ttstrain.checkpoint.upstream import resolve_base
from ttstrain.cli import paths
from ttstrain.errors import CheckpointError
from ttstrain.families.flow.config import FlowConfig
from ttstrain.families.flow.task import FlowTask
from ttstrain.recipe import shipped

SMALL = {"dim": 32, "depth": 1, "heads": 1, "dim_head": 16, "text_dim": 16, "vocab": "package:english"}


@pytest.fixture
def ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let one small net ship with ttstrain."""
    folder = tmp_path / "bases" / "tiny"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    save_file(FlowTask(FlowConfig(**SMALL)).state_dict(), folder / "model_1.safetensors")  # type: ignore[arg-type]
    monkeypatch.setattr(shipped, "_BASES", str(folder.parent))
    return folder


def test_a_base_is_found_by_its_name_wherever_a_checkpoint_is_named(ships: Path) -> None:
    assert shipped.list_bases() == ["package:tiny"]
    assert resolve_base("package:tiny") == ships / "model_1.safetensors"
    assert open_base(["package:tiny"], task="flow").path == ships / "model_1.safetensors"
    assert paths.checkpoint("package:tiny") == ships


def test_an_unknown_name_lists_the_bases_that_ship(ships: Path) -> None:
    for asked in (resolve_base, paths.checkpoint):
        with pytest.raises(CheckpointError, match="no base `package:tinny` ships with ttstrain") as caught:
            asked("package:tinny")
        assert caught.value.hint == "there is package:tiny"
        assert caught.value.exit_code == 4


def test_a_folder_of_this_name_is_not_taken_for_a_base_that_ships(
    ships: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "package:mine").mkdir()
    with pytest.raises(CheckpointError, match="no base `package:mine` ships"):
        resolve_base("package:mine")
