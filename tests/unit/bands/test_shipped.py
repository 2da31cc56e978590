"""The bands that ship belong to the recipes, bases and data that ship."""

from __future__ import annotations

import json

import pytest

from ttstrain.bands.band import SEEDS, STEPS, Band, band_path, find_band
from ttstrain.bands.facts import SETTINGS
from ttstrain.checkpoint import base_record
from ttstrain.checkpoint.upstream import open_checkpoint, resolve_base
from ttstrain.plan.catalog import CatalogEntry, read_catalog
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose
from ttstrain.recipe.schema import base_files
from ttstrain.recipe.shipped import recipe_name, shipped

SMALL = [entry for entry in read_catalog() if entry.ships_data and entry.memory_gb == 0]
AGAIN = "make the band again: `python scripts/make_bands.py {}`"


def band_of(entry: CatalogEntry) -> Band:
    band = find_band(recipe_name(entry.path))
    assert band is not None, AGAIN.format(entry.name)
    return band


def test_there_are_small_recipes_and_no_band_of_another() -> None:
    names = {recipe_name(entry.path) for entry in SMALL}
    assert {"quickstart", "from_scratch", "smoke-flow"} <= names
    assert {path.stem for path in (shipped("recipes") / "bands").iterdir()} == names


@pytest.mark.parametrize("entry", SMALL, ids=lambda entry: entry.name)
def test_every_recipe_for_two_cores_ships_three_runs_of_its_first_steps(entry: CatalogEntry) -> None:
    band, recipe = band_of(entry), parse(compose(entry.name, []))
    assert [run.seed for run in band.runs] == list(SEEDS)
    assert band.steps == min(STEPS, recipe.train.steps)  # type: ignore[type-var]
    assert any(key.startswith("train/loss/") for key in band.keys)
    assert any(key.startswith("optim/grad_norm/") for key in band.keys)
    assert "eval/loss/total" in band.keys
    assert band_path(band.recipe).stat().st_size < 20_000


@pytest.mark.parametrize("entry", SMALL, ids=lambda entry: entry.name)
def test_a_band_is_of_the_recipe_and_base_as_they_are(entry: CatalogEntry) -> None:
    """After a change of a recipe, its data or its base, one command makes its band again."""
    band, recipe = band_of(entry), parse(compose(entry.name, []))
    written = json.loads(json.dumps(recipe.model_dump(mode="json")))
    flat = {key: value for key, value in band.facts.settings.items() if key.split(".")[0] in SETTINGS}
    for key, value in flat.items():
        own = written
        for part in key.split("."):
            own = own[part]
        assert own == value, f"`{key}` has changed: {AGAIN.format(entry.name)}"
    base = ""
    if recipe.base is not None:
        (file,) = base_files(recipe.base)
        base = base_record.checksum(open_checkpoint(resolve_base(file)).weights)
    assert base == band.facts.base, AGAIN.format(entry.name)
