"""The tab key completes commands, recipes and keys, in a shell of its own as a shell asks."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from ttstrain.cli.completion import recipe_keys, recipe_names
from ttstrain.cli.main import app
from ttstrain.recipe.shipped import list_recipes

ASK = "from ttstrain.cli.main import main; import sys; sys.argv = ['ttstrain']; main()"


def completed(*words: str) -> list[str]:
    environment = {
        **os.environ,
        "_TTSTRAIN_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    command = [sys.executable, "-c", ASK]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("ttstrain", "fine"), ["finetune"]),
        (("ttstrain", "plan", "quick"), ["quickstart"]),
        (("ttstrain", "recipes", "show", "smoke/gpt"), [f"smoke/gpt_sovits_{net}" for net in ("gpt", "joint", "vae")]),
    ],
)
def test_a_shell_gets_what_fits(words: tuple[str, ...], expected: list[str]) -> None:
    assert completed(*words) == expected


def test_every_recipe_is_offered_with_its_purpose() -> None:
    assert list(recipe_names("")) == [(entry.name, entry.purpose) for entry in list_recipes()]
    assert list(recipe_names("no such")) == []


def test_keys_are_offered_until_the_value_begins() -> None:
    assert "optim.lr=" in list(recipe_keys("optim.l"))
    assert all(key.startswith("optim.l") for key in recipe_keys("optim.l"))
    assert list(recipe_keys("optim.lr=1")) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_can_be_printed(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    shown = CliRunner().invoke(app, ["--show-completion", shell], prog_name="ttstrain")
    assert shown.exit_code == 0
    assert "_TTSTRAIN_COMPLETE" in shown.stdout
