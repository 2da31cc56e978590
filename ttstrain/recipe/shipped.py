"""Find the recipes, configs and bases that ship with ttstrain, in the installed package or in a clone."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import ttstrain
from ttstrain.errors import CheckpointError, RecipeError
from ttstrain.places import expanded
from ttstrain.shell import quoted

SCHEMA_LINE = "# yaml-language-server: $schema="
PACKAGE = "package:"
_SUFFIXES = (".yaml", ".yml")
_BASES = "_bases"  # folder of the package with one folder for each base


@dataclass(frozen=True, slots=True)
class RecipeEntry:
    """A shipped recipe."""

    name: str  # path below the recipe folder without the suffix: "quickstart", "smoke/flow"
    path: Path
    purpose: str  # its first comment line


def shipped(kind: str) -> Path:
    """Return the folder of shipped `recipes` or `configs`."""
    package = Path(ttstrain.__file__).parent
    installed = package / "_shipped" / kind
    return installed if installed.is_dir() else package.parent / kind


def schema_path() -> Path:
    """Return the JSON Schema of a recipe that ships with ttstrain."""
    return shipped("configs") / "recipe.schema.json"


def find_recipe(name_or_path: str | Path) -> Path:
    """Return the file of a recipe given by path or by shipped name.

    Raises RecipeError that lists the nearest names when there is no such recipe.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.is_dir() and (path / "recipe.yaml").is_file():
        raise RecipeError(
            f"`{path}` is the folder of a run, not a recipe",
            hint=f"`ttstrain resume {quoted(path)}` continues it; `{path / 'recipe.yaml'}` is its recipe",
        )
    if path.suffix not in _SUFFIXES and (found := _lookup("recipes", str(name_or_path))):
        return found
    raise RecipeError(
        f"no recipe `{name_or_path}`: neither a file nor a shipped recipe",
        hint=_nearest(str(name_or_path), [entry.name for entry in list_recipes()], kind="recipes"),
    )


def find_config(name: str, *, beside: Path | None = None) -> Path:
    """Return the file of a config given by shipped name ("models/x") or, with a suffix, by path.

    A relative path starts at the folder `beside`. Raises RecipeError with the nearest names when there is none.
    """
    if Path(name).suffix in _SUFFIXES:
        path = (beside or Path()) / name
        if not path.is_file():
            raise RecipeError(f"no config file `{path}`", hint="a shipped config is named without `.yaml`")
        return path
    if found := _lookup("configs", name):
        return found
    if _lookup("recipes", name):
        raise RecipeError(
            f"`{name}` is a recipe, and a recipe cannot extend a recipe",
            hint=f"`ttstrain recipes copy {name}` makes a copy to edit",
        )
    raise RecipeError(f"no config `{name}`", hint=_nearest(name, _names("configs"), kind="configs"))


def list_bases() -> list[str]:
    """List the bases that ship with ttstrain, as a recipe names them."""
    folder = Path(ttstrain.__file__).parent / _BASES
    return sorted(f"{PACKAGE}{path.name}" for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def base_path(spec: str) -> Path:
    """Return where a base lies on this machine: `package:NAME` is the folder of one that ships with ttstrain.

    Raises CheckpointError that lists the bases that ship when there is none of this name.
    """
    if not spec.startswith(PACKAGE):
        return expanded(spec)
    known = list_bases()
    if spec not in known:
        raise CheckpointError(
            f"no base `{spec}` ships with ttstrain", hint=f"there is {', '.join(known)}" if known else "there is none"
        )
    return Path(ttstrain.__file__).parent / _BASES / spec.removeprefix(PACKAGE)


def recipe_name(path: Path) -> str:
    """Name a recipe by its file; a shipped one in a sub-folder carries the folder's name too."""
    folder = shipped("recipes")
    inside = path.relative_to(folder) if path.is_relative_to(folder) else Path(path.name)
    return "-".join(inside.with_suffix("").parts)


def list_recipes() -> list[RecipeEntry]:
    """List the shipped recipes, sorted by name; those for trying the machinery (`smoke/`) come last."""
    names = sorted(_names("recipes"), key=lambda name: ("/" in name, name))
    paths = {name: shipped("recipes") / f"{name}.yaml" for name in names}
    return [RecipeEntry(name, path, purpose(path)) for name, path in paths.items()]


def purpose(path: Path) -> str:
    """Return a recipe's first comment line without its label."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and not line.startswith(SCHEMA_LINE):
            return line.lstrip("# ").removeprefix("For: ").strip()
    return ""


def write_new(target: Path, text: str) -> None:
    """Write a recipe's file. Raises RecipeError where it exists already, or cannot be written."""
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise RecipeError(f"`{target}` exists already", hint="name another file") from error
    except OSError as error:
        raise RecipeError(f"cannot write `{target}`: {error.strerror}") from error


def _lookup(kind: str, name: str) -> Path | None:
    return shipped(kind) / f"{name}.yaml" if name in _names(kind) else None


def _names(kind: str) -> list[str]:
    folder = shipped(kind)
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def _nearest(name: str, known: Iterable[str], *, kind: str) -> str:
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(f'`{match}`' for match in near)}?" if near else f"{kind}: {', '.join(known)}"
