"""Every recipe and config that ships is read, composed and planned."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import pytest

from ttstrain import registry
from ttstrain.errors import RecipeError
from ttstrain.plan.catalog import GOALS
from ttstrain.plan.facts import gather_facts
from ttstrain.plan.resolve import parse, resolve
from ttstrain.recipe.compose import compose, load_yaml, with_flags
from ttstrain.recipe.shipped import SCHEMA_LINE, list_recipes, schema_path, shipped

RECIPES = {entry.name: entry.path for entry in list_recipes()}
CONFIGS = sorted(shipped("configs").rglob("*.yaml"))
GATED = ["model.rows.tokenizer=package:toy"]  # in place of what only its owner's terms open
PARAMETERS = {  # measured on upstream's nets with its vocab of 2545 tokens
    "f5_v1_base": 337_096_804,
    "f5_v0_base": 337_096_804,
    "f5_v1_small": 159_228_772,
    "f5_v0_small": 159_228_772,
    "e2_base": 333_470_444,
    "e2_small": 157_161_708,
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_opens_with_what_a_reader_needs(name: str) -> None:
    lines = RECIPES[name].read_text(encoding="utf-8").splitlines()
    labels = [line.split(":")[0] for line in lines[1:5]]
    assert labels == ["# For", "# Data", "# Hardware and time", "# Measured"]
    assert lines[0].startswith(SCHEMA_LINE)
    assert (RECIPES[name].parent / lines[0].removeprefix(SCHEMA_LINE)).resolve() == schema_path().resolve()
    assert len(lines) <= 46
    goals = [line.partition(": ")[2].split(", ") for line in lines if line.startswith("# Goal")]
    assert all(goal in GOALS for found in goals for goal in found)
    assert goals == [] or lines[5].startswith("# Goal: ")  # where `ttstrain new` looks


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_can_be_planned(name: str) -> None:
    composed = compose(name, GATED if name.startswith("orpheus") else [])
    if "data.path" not in composed.origins:
        composed = with_flags(composed, data=Path("package:demo"))
    recipe = parse(composed)
    plan = resolve(recipe, origins=composed.origins, facts=gather_facts(recipe), source_name=composed.name)
    assert plan.steps > 0
    assert plan.facts.skipped == {}
    assert plan.facts.padding_share < 0.2


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_stands_in_the_table(name: str) -> None:
    table = (shipped("recipes") / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"\| \[{re.escape(name)}\]\({re.escape(name)}\.yaml\) \|", table)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_is_a_part_and_fits_the_schema(path: Path, tmp_path: Path) -> None:
    assert "extends" not in load_yaml(path)
    name = path.relative_to(shipped("configs")).with_suffix("").as_posix()
    recipe = tmp_path / "r.yaml"
    family = next((family for family in registry.names() if path.stem.startswith(family)), "flow")
    for spec in registry.load(family).tasks:
        recipe.write_text(f"task: {spec.name}\nextends: [{name}]\n", encoding="utf-8")
        with suppress(RecipeError):  # a part of one net is not read by a task of the other
            assert parse(compose(recipe)).task == spec.name
            return
    pytest.fail(f"no task of `{family}` reads `{name}`")


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_published_nets_have_their_published_size(name: str) -> None:
    spec = registry.find_task("flow")
    config = spec.read_model(load_yaml(shipped("configs") / "models" / f"{name}.yaml")["model"])
    assert spec.planner(config).num_parameters() == PARAMETERS[name]
