from __future__ import annotations

import re
from pathlib import Path

import pytest

from ttstrain.errors import RecipeError
from ttstrain.recipe.shipped import find_config, find_recipe, list_recipes, purpose


def test_shipped_recipes_are_found_by_name() -> None:
    assert find_recipe("quickstart").name == "quickstart.yaml"
    assert find_recipe("smoke/flow").parent.name == "smoke"


def test_a_file_is_a_recipe_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "quickstart"
    path.write_text("task: flow\n", encoding="utf-8")
    assert find_recipe(path) == path


def test_an_unknown_recipe_is_told_the_nearest_name() -> None:
    with pytest.raises(RecipeError, match="no recipe `quikstart`") as caught:
        find_recipe("quikstart")
    assert caught.value.hint == "did you mean `quickstart`?"


def test_an_unknown_recipe_far_from_all_is_told_all_names() -> None:
    with pytest.raises(RecipeError) as caught:
        find_recipe("zzz")
    assert all(entry.name in str(caught.value.hint) for entry in list_recipes())


@pytest.mark.parametrize("name", ["../configs/models/f5_tiny", "missing.yaml", "models/f5_tiny"])
def test_only_recipes_are_recipes(name: str) -> None:
    with pytest.raises(RecipeError, match="no recipe"):
        find_recipe(name)


def test_a_runs_folder_is_told_apart_from_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("task: flow\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="is the folder of a run") as caught:
        find_recipe(tmp_path)
    assert f"ttstrain resume {tmp_path}" in str(caught.value.hint)


def test_a_configs_path_is_taken_from_the_recipes_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("model: {}\n", encoding="utf-8")
    assert find_config("mine.yaml", beside=tmp_path) == tmp_path / "mine.yaml"
    with pytest.raises(RecipeError, match=re.escape("no config file")):
        find_config("mine.yaml", beside=tmp_path / "elsewhere")


def test_the_list_says_what_each_recipe_is_for() -> None:
    entries = list_recipes()
    assert [entry.name for entry in entries][-1].startswith("smoke/")
    assert all(entry.purpose and entry.path.is_file() for entry in entries)


def test_the_purpose_is_the_first_comment_that_is_not_for_editors(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("# yaml-language-server: $schema=x\n# For: a test.\n# Data: none\ntask: flow\n", encoding="utf-8")
    assert purpose(path) == "a test."
