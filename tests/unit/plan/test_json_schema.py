from __future__ import annotations

import json
from typing import Any

import pytest

from ttstrain import registry
from ttstrain.plan.complaints import known_keys
from ttstrain.plan.json_schema import recipe_schema
from ttstrain.recipe.schema import Recipe
from ttstrain.recipe.shipped import schema_path


def references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*(references(value) for value in node.values()))
    return set().union(*(references(value) for value in node)) if isinstance(node, list) else set()


def plain(node: Any) -> Any:
    """Leave out what versions of pydantic say differently and means the same."""
    if isinstance(node, list):
        return [plain(value) for value in node]
    if not isinstance(node, dict):
        return node
    redundant = {key for key in ("enum", "type") if "const" in node} | {
        key for key in ("additionalProperties",) if node.get(key) is True
    }
    return {key: plain(value) for key, value in node.items() if key not in redundant}


def test_every_reference_has_its_definition() -> None:
    schema = recipe_schema()
    for reference in references(schema):
        name = reference.removeprefix("#/$defs/").replace("~1", "/").replace("~0", "~")
        assert name in schema["$defs"], reference


def test_every_top_level_key_is_described() -> None:
    schema = recipe_schema()
    assert set(schema["properties"]) == {"extends", *Recipe.model_fields}
    assert schema["additionalProperties"] is False
    assert "required" not in schema  # a config may say it


@pytest.mark.parametrize("task", list(registry.tasks()))
def test_every_task_has_its_model_section(task: str) -> None:
    schema = recipe_schema()
    (condition,) = [part for part in schema["allOf"] if part["if"]["properties"]["task"]["const"] == task]
    name = condition["then"]["properties"]["model"]["$ref"].removeprefix("#/$defs/").replace("~1", "/")
    top = [key for key in known_keys(registry.find_task(task).config) if "." not in key]
    assert list(schema["$defs"][name]["properties"]) == top


def test_the_shipped_schema_is_the_present_one() -> None:
    shipped = json.loads(schema_path().read_text(encoding="utf-8"))
    assert plain(shipped) == plain(recipe_schema()), "run `ttstrain schema -o configs/recipe.schema.json`"
