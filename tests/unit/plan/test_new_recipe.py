"""A new recipe is the shipped one that fits, with the answers in it, and it reads as a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from ttstrain.errors import RecipeError
from ttstrain.plan.catalog import CatalogEntry, family_title, grouped, read_catalog
from ttstrain.plan.new_recipe import Answers, Hardware, choose, fitting_hardware, hardware_configs, written
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose

ENTRIES = read_catalog()
MACHINES = {one.name: one for one in hardware_configs()}
ASKED = sorted({(entry.family, goal, name) for entry in ENTRIES for goal in entry.goals for name in MACHINES})


@pytest.mark.parametrize(("family", "goal", "machine"), ASKED)
def test_every_combination_of_answers_gives_a_sound_recipe(
    tmp_path: Path, family: str, goal: str, machine: str
) -> None:
    choice = choose(ENTRIES, family=family, goal=goal, hardware=MACHINES[machine])
    target = tmp_path / "mine.yaml"
    text = written(choice, Answers("my data: #1", MACHINES[machine], "a/base.pt"), target=target)
    target.write_text(text, encoding="utf-8")
    recipe = parse(compose(target))
    assert (recipe.data.path, recipe.base, recipe.task) == ("my data: #1", "a/base.pt", choice.entry.task)
    assert f"hardware/{machine}" in text
    assert recipe.train.device == ("cpu" if machine == "cpu" else "cuda")
    shipped, mine = (compose(path).values for path in (choice.entry.name, target))
    for section in ("model", "optim", "lora", "ema", "eval", "sample", "checkpoint"):
        assert mine.get(section) == shipped.get(section)
    assert bool(choice.note) == (choice.entry.memory_gb > MACHINES[machine].memory_gb)
    assert max(map(len, text.splitlines()[1:])) <= 160


def test_the_base_of_the_recipe_stays_unless_another_is_named(tmp_path: Path) -> None:
    machine = MACHINES["single_gpu_24gb"]
    for family in sorted({entry.family for entry in ENTRIES if "voice" in entry.goals}):
        choice = choose(ENTRIES, family=family, goal="voice", hardware=machine)
        target = tmp_path / f"{family}.yaml"
        target.write_text(written(choice, Answers("package:voice", machine), target=target), encoding="utf-8")
        assert compose(target).values["base"] == compose(choice.entry.name).values["base"]


def test_each_section_has_a_remark(tmp_path: Path) -> None:
    choice = choose(ENTRIES, family="flow", goal="voice", hardware=MACHINES["single_gpu_24gb"])
    text = written(choice, Answers("voice", MACHINES["single_gpu_24gb"]), target=tmp_path / "r.yaml")
    for section in ("data", "optim", "train", "ema", "sample", "checkpoint"):
        assert f"\n{section}:" in text
    keys = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith(("#", "-"))]
    remarked = [line for line in keys if "  # " in line]
    assert len(remarked) >= len(keys) - 2  # `task`, and a line whose remark stands above it


def entry(name: str, *, memory_gb: int, family: str = "a", goals: tuple[str, ...] = ("voice",)) -> CatalogEntry:
    return CatalogEntry(name, Path(name), "", family, goals, memory_gb, ships_data=False)


@pytest.mark.parametrize(("gb", "name", "noted"), [(8, "small", True), (12, "small", False), (80, "large", False)])
def test_the_recipe_that_makes_the_most_of_the_machine_is_chosen(gb: int, name: str, noted: bool) -> None:
    known = [entry("small", memory_gb=12), entry("large", memory_gb=40), entry("other", memory_gb=8, family="b")]
    choice = choose(known, family="a", goal="voice", hardware=Hardware("machine", gb, ""))
    assert (choice.entry.name, bool(choice.note)) == (name, noted)


def test_a_goal_that_a_family_has_no_recipe_for_names_those_that_have() -> None:
    known = [entry("r", memory_gb=8), entry("s", memory_gb=8, family="b", goals=("language",))]
    with pytest.raises(RecipeError, match="`a` has no recipe for the goal `language`") as error:
        choose(known, family="a", goal="language", hardware=MACHINES["cpu"])
    assert error.value.hint == "there is one for `b`"


@pytest.mark.parametrize(
    ("memory", "name"),
    [(None, "cpu"), (6 * 2**30, "cpu"), (8 * 2**30, "single_gpu_8gb"), (24564 * 2**20, "single_gpu_24gb")],
)
def test_the_machine_is_recognized_by_its_gpu(memory: int | None, name: str) -> None:
    assert fitting_hardware(memory).name == name
    assert fitting_hardware(141 * 10**9).name == "single_gpu_80gb"


def test_recipes_are_listed_once_each_and_families_under_their_names() -> None:
    groups = grouped(ENTRIES)
    first, *families, last = groups
    assert "quickstart" in [found.name for found in groups[first]]
    assert all(found.name.startswith("smoke/") for found in groups[last])
    assert set(families) == {family_title(found.family) for found in ENTRIES}
    listed = [found.name for found_group in groups.values() for found in found_group]
    assert sorted(listed) == sorted(found.name for found in ENTRIES)
