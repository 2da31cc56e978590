"""A recipe's `tracking:` decides who watches."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator

import pytest

from ttstrain.errors import RecipeError
from ttstrain.recipe.schema import TrackingConfig
from ttstrain.tracking.build import build_trackers
from ttstrain.warning_listener import Listener


@pytest.fixture(autouse=True)
def _nobody_listens_afterwards() -> Iterator[None]:
    yield
    with Listener(print):  # takes the place of the trackers that no test here finishes
        pass


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
        "import sys; from ttstrain.recipe.schema import TrackingConfig; from ttstrain.tracking.build import "
        "build_trackers; build_trackers(TrackingConfig(wandb='online')); "
        "print([name for name in ('torch', 'wandb', 'tensorboard') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


@pytest.mark.parametrize(
    ("recipe", "origin", "environment", "mode"),
    [
        ("auto", "default", "disabled", None),
        ("offline", "configs/tracking/offline", "disabled", None),
        ("offline", "configs/tracking/offline", "online", "online"),
        ("auto", "default", "dryrun", "offline"),
        ("auto", "default", "", "auto"),
        ("offline", "recipe", "disabled", "offline"),
        ("online", "command line", "disabled", "online"),
        ("off", "recipe", "online", None),
        ("disabled", "recipe", "online", None),
        ("disabled", "command line", "", None),
    ],
)
def test_wandb_mode_counts_unless_the_recipe_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, recipe: str, origin: str, environment: str, mode: str | None
) -> None:
    monkeypatch.setenv("WANDB_MODE", environment)
    config = TrackingConfig(wandb=recipe)  # type: ignore[arg-type]
    *_, last = build_trackers(config, origins={"tracking.wandb": origin})
    assert getattr(last, "_wanted", None) == mode


def test_an_unknown_wandb_mode_is_told_and_left_aside(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "of")
    *_, last = build_trackers(TrackingConfig(wandb="offline"), origins={})
    assert getattr(last, "_wanted", None) == "offline"
    assert "WANDB_MODE is `of`" in capsys.readouterr().err
