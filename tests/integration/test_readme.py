"""Every command in the guides exists, takes those options, and names recipes and keys that exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from ttstrain.cli.main import load_command
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose

REPO = Path(__file__).resolve().parents[2]
GUIDES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "recipes/**/*.md", "ttstrain/**/README.md")
    for path in REPO.glob(pattern)
)
SHELLS = {"bash", "sh", "shell", "console"}


def commands(markdown: str) -> Iterator[list[str]]:
    """Yield the arguments after `ttstrain` of each command line in a fenced block of shell."""
    for fence, block in re.findall(r"^ *```(\w+)\n(.*?)^ *```", markdown, flags=re.MULTILINE | re.DOTALL):
        if fence not in SHELLS:
            continue
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            for part in split_at(words, {"&&", "||", ";", "|"}):
                names = [Path(word).name for word in part]
                if "ttstrain" in names and "pip" not in names:
                    yield part[names.index("ttstrain") + 1 :]


def split_at(words: list[str], separators: set[str]) -> Iterator[list[str]]:
    part: list[str] = []
    for word in [*words, ";"]:
        if word in separators:
            yield part
            part = []
        else:
            part.append(word)


DOCUMENTED = [
    pytest.param(arguments, id=f"{guide.relative_to(REPO)}:{shlex.join(arguments)}")
    for guide in GUIDES
    for arguments in commands(guide.read_text(encoding="utf-8"))
]


def test_the_readme_shows_the_quickstart_and_the_tests() -> None:
    readme = (REPO / "README.md").read_text(encoding="utf-8")
    assert ["finetune", "quickstart"] in list(commands(readme))
    assert ".venv/bin/python -m pytest -n 2\n" in readme


@pytest.mark.parametrize("arguments", DOCUMENTED)
def test_documented_command_can_be_given(arguments: list[str]) -> None:
    verb, *rest = arguments
    if verb.startswith("-"):
        return
    command = load_command(verb)
    if hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        command, rest = command.commands[rest[0]], rest[1:]
    context = command.make_context(verb, list(rest))  # raises on an unknown option, a missing argument or a bad value

    recipe = context.params.get("recipe")
    of_the_reader = str(recipe).endswith(".yaml") and not (REPO / str(recipe)).exists()  # made by an earlier command
    if recipe and not of_the_reader and "overrides" in context.params:
        parse(compose(context.params["recipe"], context.params["overrides"] or []))
