"""A recipe's `base:` may be several files: written, overridden, given by options, and read back from a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ttstrain.errors import RecipeError
from ttstrain.plan.json_schema import recipe_schema
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose, with_flags
from ttstrain.recipe.schema import base_files, base_title
from ttstrain.runs.kept import from_where_started

TEXT = "task: flow\nbase: [a.pth, b.pth]\n"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_a_recipe_names_several_files(recipe: Path) -> None:
    base = parse(compose(recipe)).base
    assert base_files(base) == ("a.pth", "b.pth")
    assert base_title(base) == "a.pth + b.pth"


@pytest.mark.parametrize(
    ("override", "files"),
    [("base=[c.pth,d.pth]", ("c.pth", "d.pth")), ("base=c.pth", ("c.pth",)), ("base=null", ())],
)
def test_an_override_replaces_the_whole_list(recipe: Path, override: str, files: tuple[str, ...]) -> None:
    assert base_files(parse(compose(recipe, [override])).base) == files


def test_options_replace_it_and_one_stays_one(recipe: Path) -> None:
    assert parse(with_flags(compose(recipe), base=["c.pth"])).base == "c.pth"
    assert parse(with_flags(compose(recipe), base=["c.pth", "d.pth"])).base == ["c.pth", "d.pth"]
    assert parse(with_flags(compose(recipe), base=[])).base == ["a.pth", "b.pth"]


@pytest.mark.parametrize("value", ["[]", "[3]", "{a: b}", "3"])
def test_what_is_no_path_is_refused(tmp_path: Path, value: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"task: flow\nbase: {value}\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="base"):
        parse(compose(path))


def test_the_schema_takes_one_file_or_several() -> None:
    kinds = [option.get("type") for option in recipe_schema()["properties"]["base"]["anyOf"]]
    assert kinds == ["string", "array", "null"]


def test_files_of_a_list_are_found_from_where_the_run_was_started(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(b"x")
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump({"task": "flow", "base": ["a.pth", "/gone/b.pth", "hf://x/y"]}), encoding="utf-8")
    composed, notes = from_where_started(compose(path), tmp_path)
    assert composed.values["base"] == [str(tmp_path / "a.pth"), "/gone/b.pth", "hf://x/y"]
    assert len(notes) == 1
