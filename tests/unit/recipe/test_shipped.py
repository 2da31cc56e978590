"""Every recipe and config that ships is read, composed and planned."""

from __future__ import annotations

import re
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest

from ttstrain import registry
from ttstrain.errors import RecipeError
from ttstrain.plan.catalog import GOALS
from ttstrain.plan.estimate import ACTIVATIONS
from ttstrain.plan.facts import gather_facts
from ttstrain.plan.new_recipe import hardware_configs
from ttstrain.plan.plan import Plan
from ttstrain.plan.render import GPU_SHARE
from ttstrain.plan.resolve import parse, resolve
from ttstrain.recipe.compose import compose, load_yaml, with_flags
from ttstrain.recipe.shipped import SCHEMA_LINE, list_recipes, schema_path, shipped

REPO = Path(__file__).resolve().parents[3]
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


@cache
def planned(name: str, *overrides: str) -> Plan:
    composed = compose(name, [*(GATED if name.startswith("orpheus") else []), *overrides])
    if "data.path" not in composed.origins:
        composed = with_flags(composed, data=Path("package:demo"))
    recipe = parse(composed)
    return resolve(recipe, origins=composed.origins, facts=gather_facts(recipe), source_name=composed.name)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_can_be_planned(name: str) -> None:
    plan = planned(name)
    assert plan.steps > 0
    assert plan.facts.skipped == {}
    assert plan.facts.padding_share < 0.2


# ---------------------------------------------------------------- memory

OF_A_GPU = re.compile(r"GPUs? with (\d+) GB(?: \((\d+\.\d) GB planned(, activations not counted)?\))?")
PRESETS = [one for one in hardware_configs() if one.memory_gb]
SIZES = [*(one.memory_gb for one in PRESETS), 141]  # GB
TABLES = ("recipes/README.md", "README.md", "docs/new_voice.md")


def said_of_memory(name: str) -> re.Match[str] | None:
    """Find what the head of a recipe says of GPUs."""
    head = next(
        line for line in RECIPES[name].read_text(encoding="utf-8").splitlines() if line.startswith("# Hardware")
    )
    return OF_A_GPU.search(head)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_of_memory_what_the_plan_computes(name: str) -> None:
    plan, said = planned(name), said_of_memory(name)
    if said is None:
        assert plan.recipe.train.device == "cpu"
        return
    gb, counted = plan.memory_bytes / 1e9, ACTIVATIONS in plan.memory
    assert said[2] == f"{gb:.1f}"
    assert (said[3] is None) == counted
    fitting = [size for size in SIZES if gb <= GPU_SHARE * size]
    assert int(said[1]) in (fitting[:1] if counted else fitting)  # the smallest, where the sum is whole
    extended = [part for part in load_yaml(RECIPES[name]).get("extends", []) if part.startswith("hardware/")]
    assert extended in ([], [f"hardware/single_gpu_{said[1]}gb"])


@pytest.mark.parametrize("name", [name for name in RECIPES if said_of_memory(name)])
def test_the_tables_say_of_memory_what_the_recipe_says(name: str) -> None:
    said = said_of_memory(name)
    assert said is not None
    rows = [
        line
        for table in TABLES
        for line in (REPO / table).read_text(encoding="utf-8").splitlines()
        if " GB" in line and re.search(rf"\| (\[{name}\]|`{name}` \|)", line)
    ]
    assert rows  # of recipes/README.md at least
    for row in rows:
        assert re.findall(r"(\d+) GB", row) == [said[1]], row


@pytest.mark.parametrize("name", [name for name in RECIPES if said_of_memory(name)])
def test_the_table_of_machines_holds_what_the_plan_computes(name: str) -> None:
    """Of each row, the cell of the recipe's own preset; `scripts/hardware_table.py` prints the whole table."""
    table = (REPO / "docs" / "first_minutes.md").read_text(encoding="utf-8").splitlines()
    row = next((line for line in table if line.startswith(f"| {name} |")), None)
    if row is None:
        assert not any(line.startswith("# Goal") for line in RECIPES[name].read_text(encoding="utf-8").splitlines())
        return
    cells = [cell.strip(" ()") for cell in row.strip("|").split("|")[1:]]
    said = said_of_memory(name)
    assert said is not None
    own = next((i for i, one in enumerate(PRESETS) if one.memory_gb == int(said[1])), len(PRESETS) - 1)
    plan = planned(name)
    assert cells[own] == f"{plan.memory_bytes / 1e9:.1f} GB{'' if ACTIVATIONS in plan.memory else ' +'}"


def test_all_weights_of_orpheus_without_checkpointed_activations_need_the_larger_gpu() -> None:
    gb = planned("orpheus_new_voice_full", "model.checkpoint_activations=false").memory_bytes / 1e9
    assert GPU_SHARE * 80 < gb <= GPU_SHARE * 141


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
