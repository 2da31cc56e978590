"""Projects of F5-TTS's training tools, as the rest of ttstrain asks about them. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from ttstrain.contract.project import Chosen, ProjectSettings
from ttstrain.families.flow.prepared import is_prepared
from ttstrain.families.flow.project_files import choose, vocab_settings
from ttstrain.families.flow.project_recipe import recipe_of


class F5Project:
    """What the rest of ttstrain asks about such projects."""

    settings_file = "F5-TTS's web tool: setting.json"

    def choose(self, folder: Path) -> Chosen | None:
        """Choose the checkpoint that a project's folder stands for."""
        return choose(folder)

    def settings(self, *, task: str, data: Path | None) -> ProjectSettings | None:
        """Take the vocab and the tokenizer from prepared data."""
        if task != "flow" or data is None or not is_prepared(data):
            return None
        values = vocab_settings(data)
        return ProjectSettings(values, origin=f"project {data.name}") if values else None

    def recipe(self, folder: Path) -> str | None:
        """Write a recipe from `setting.json`."""
        return recipe_of(folder)
