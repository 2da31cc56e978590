"""A recipe's `tracking:` decides who watches."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from ttstrain.config.recipe import TrackingConfig
from ttstrain.errors import RecipeError
from ttstrain.tracking.build import build_trackers


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (TrackingConfig(wandb="off"), ["JsonlTracker", "ConsoleTracker"]),
        (TrackingConfig(), ["JsonlTracker", "ConsoleTracker", "WandbTracker"]),
    ],
)
def test_the_recipe_chooses_the_trackers(config: TrackingConfig, names: list[str]) -> None:
    assert [type(tracker).__name__ for tracker in build_trackers(config)] == names


def test_tensorboard_is_asked_for_and_refused_by_name_when_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="tensorboard"):
        build_trackers(TrackingConfig(tensorboard=True))


def test_choosing_imports_nothing_heavy() -> None:
    script = (
        "import sys; from ttstrain.config.recipe import TrackingConfig; from ttstrain.tracking.build import "
        "build_trackers; build_trackers(TrackingConfig(wandb='online')); "
        "print([name for name in ('torch', 'wandb', 'tensorboard') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
