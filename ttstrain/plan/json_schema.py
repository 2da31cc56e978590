"""The JSON Schema of a recipe, with the `model:` section of every task."""

from __future__ import annotations

from typing import Any

from ttstrain import registry
from ttstrain.data.formats import choices
from ttstrain.recipe.schema import DataConfig, Recipe, ReplayConfig


def recipe_schema() -> dict[str, Any]:
    """Return the schema an editor checks a recipe file with.

    No key is required in the file itself: a config that it extends may set it.
    """
    schema = Recipe.model_json_schema()
    definitions: dict[str, Any] = schema.pop("$defs")
    for section in (DataConfig, ReplayConfig):
        definitions[section.__name__]["properties"]["format"]["enum"] = choices()
    conditions = []
    for name, spec in registry.tasks().items():
        model = spec.config.model_json_schema(ref_template=f"#/$defs/{_escaped(name)}.{{model}}")
        definitions |= {f"{name}.{key}": value for key, value in model.pop("$defs", {}).items()}
        definitions[name] = model
        conditions.append(
            {
                "if": {"properties": {"task": {"const": name}}, "required": ["task"]},
                "then": {"properties": {"model": {"$ref": f"#/$defs/{_escaped(name)}"}}},
            }
        )
    schema.pop("required", None)
    schema["properties"] = {"extends": _EXTENDS, **schema["properties"]}
    schema["properties"]["task"]["enum"] = list(registry.tasks())
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "allOf": conditions,
        "$defs": dict(sorted(definitions.items())),
    }


_EXTENDS = {
    "type": "array",
    "items": {"type": "string"},
    "default": [],
    "description": "Configs that this recipe starts from, later ones over earlier ones, such as `hardware/cpu`.",
}


def _escaped(name: str) -> str:
    """Escape a task's name for a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")
