"""The smallest recipe and its base, for what starts runs; a file with other needs has fixtures of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import finetune, write_clips, write_recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    return write_recipe(folder / "small.yaml", data=write_clips(folder / "clips"))


@pytest.fixture(scope="module")
def base(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetune(recipe, tmp_path_factory.mktemp("base"), "train.steps=3", "name=base")
