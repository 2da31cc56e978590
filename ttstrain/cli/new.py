"""`ttstrain new`: five questions, and a recipe for one's own data."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ttstrain.cli import paths
from ttstrain.errors import DataError, RecipeError
from ttstrain.layout import LABEL, WIDTH, labelled
from ttstrain.places import expanded
from ttstrain.shell import quoted
from ttstrain.terminal import on_one_line

if TYPE_CHECKING:
    from ttstrain.plan.catalog import CatalogEntry
    from ttstrain.plan.new_recipe import Hardware


def new(
    out: Annotated[
        Path | None,
        typer.Argument(parser=paths.path, metavar="FILE", help="Recipe to write; default: named after the data."),
    ] = None,
    *,
    family: Annotated[str, typer.Option(help="Which model, such as the first part of a recipe's `task`.")] = "",
    data: Annotated[str, typer.Option(metavar="DATA", help="Folder or table of recordings with texts.")] = "",
    goal: Annotated[str, typer.Option(help="What it should learn: voice, minute or language.")] = "",
    hardware: Annotated[str, typer.Option(help="A config of `configs/hardware`, such as cpu.")] = "",
    base: Annotated[str, typer.Option(metavar="CKPT", help="Weights to start from; default: the recipe's own.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing: take defaults for what is not given.")] = False,
) -> None:
    """Ask five questions and write a recipe for your data, with a remark behind every setting.

    Each question has an option. Without a terminal, give `--data` and `--yes`, and what the defaults do not fit.
    """
    from ttstrain.plan.catalog import read_catalog
    from ttstrain.plan.new_recipe import Answers, base_of, choose, written

    ask = not yes and _asks()
    if not ask and not data:
        raise RecipeError("`ttstrain new` needs `--data`: nobody can be asked here", hint="add `--data FOLDER --yes`")
    if not ask and not yes:
        raise RecipeError("`ttstrain new` cannot ask here", hint="add `--yes`: defaults for what is not given")
    entries = read_catalog()
    family = _choose(ask, "1. Which model?", family, _families(entries), option="--family")
    data = _data(ask, data)
    goal = _choose(ask, "3. What should it learn?", goal, _goals(entries, family), option="--goal")
    machine = _hardware(ask, hardware)
    choice = choose(entries, family=family, goal=goal, hardware=machine)
    base = _base(ask, base, base_of(choice.entry))
    target = _target(out, data)
    answers = Answers(data, machine, base or None)
    _write(target, written(choice, answers, target=target))
    print("\n".join(labelled("recipe", f"{target}, from `{choice.entry.name}`: {choice.entry.purpose}")))
    if choice.note:
        print("\n".join(labelled("note", choice.note)))
    _print_next(target, data)


def _asks() -> bool:
    """Tell whether somebody can answer."""
    return sys.stdin is not None and sys.stdin.isatty()


def _families(entries: list[CatalogEntry]) -> dict[str, str]:
    from ttstrain.plan.catalog import family_title

    return {entry.family: family_title(entry.family) for entry in entries if entry.goals}


def _goals(entries: list[CatalogEntry], family: str) -> dict[str, str]:
    from ttstrain.plan.catalog import GOALS

    offered = {goal for entry in entries if entry.family == family for goal in entry.goals}
    return {goal: title for goal, title in GOALS.items() if goal in offered}


def _hardware(ask: bool, given: str) -> Hardware:
    from ttstrain.plan.gpu import gpu_memory
    from ttstrain.plan.new_recipe import fitting_hardware, hardware_configs

    every = {one.name: one for one in hardware_configs()}
    titles = {name: one.about for name, one in every.items()}
    here = fitting_hardware(gpu_memory())
    return every[_choose(ask, "4. On which machine?", given, titles, option="--hardware", default=here.name)]


def _choose(
    ask: bool, question: str, given: str, choices: Mapping[str, str], *, option: str, default: str | None = None
) -> str:
    """Return the answer that was given, or ask for it by number or name. Raises RecipeError for an unknown one."""
    names = list(choices)
    preset = default or names[0]
    if given or not ask:
        if (answer := given or preset) not in choices:
            raise RecipeError(f"`{option} {answer}` is not one of {', '.join(names)}")
        return answer
    print(question)
    for number, (name, title) in enumerate(choices.items(), start=1):
        print("\n".join(labelled(f"  {number}  {name}", title, column=24, hang=2)))
    while True:
        answer = _answer(f"   number or name [{preset}]: ") or preset
        if answer.isdecimal() and 1 <= int(answer) <= len(names):
            return names[int(answer) - 1]
        if answer in choices:
            return answer
        print(f"   there is no `{on_one_line(answer)}`")


def _data(ask: bool, given: str) -> str:
    """Return where the recordings lie. Raises DataError where that does not exist and nobody can be asked."""
    from ttstrain.recipe.shipped import PACKAGE

    if not given and ask:
        print("2. Where are the recordings and their texts?")
    while True:
        data = given or _answer("   folder or table: ")
        if data.startswith(PACKAGE) or (data and expanded(data).exists()):
            return data
        if given or not ask:
            raise DataError(f"`{data}` does not exist", hint="give the folder or the table of your recordings")
        print(f"   `{on_one_line(data)}` does not exist")


def _base(ask: bool, given: str, own: str) -> str:
    if given or not ask:
        return given
    print("5. From which weights should it start?")
    print("\n".join(labelled("", f"the recipe's own: {own}", column=3, break_words=True)))
    return _answer("   another file, folder, run or hf://… [the recipe's own]: ")


def _answer(prompt: str) -> str:
    """Ask on the terminal. Raises RecipeError where the answers end."""
    try:
        return input(prompt).strip()
    except EOFError as error:
        raise RecipeError("the answers ended before the last question", hint="or give options and `--yes`") from error


def _target(out: Path | None, data: str) -> Path:
    from ttstrain.recipe.shipped import PACKAGE

    stem = expanded(data.removeprefix(PACKAGE)).resolve()
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", stem.stem if stem.is_file() else stem.name).strip("_")
    return out or Path(f"{name or 'recipe'}.yaml")


def _write(target: Path, text: str) -> None:
    """Write the recipe, and read it as a run would. Nothing is overwritten, and nothing unsound is left."""
    from ttstrain.plan.resolve import parse
    from ttstrain.recipe.compose import compose
    from ttstrain.recipe.shipped import write_new

    write_new(target, text)
    try:
        parse(compose(target))
    except RecipeError:
        target.unlink()
        raise


def _print_next(target: Path, data: str) -> None:
    recipe = target if target.is_absolute() or len(target.parts) > 1 else f"./{target}"
    steps = (
        (("doctor", data, "--recipe", recipe), "what is wrong with the recordings"),
        (("plan", recipe), "what will happen, and what it needs"),
        (("prove", recipe), "that what is trained will speak"),
        (("finetune", recipe), "train"),
    )
    for number, (words, about) in enumerate(steps):
        line = f"{'next' if not number else '':{LABEL}}{quoted('ttstrain', *words)}"
        remark = f"  # {about}"
        print(line + remark if len(line + remark) <= WIDTH else line)
