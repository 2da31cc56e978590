"""Put a recipe together: the configs it extends, then its own keys, then the command line's.

Mappings merge, everything else is replaced. Every value remembers where it comes from.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttstrain.documents import read_text
from ttstrain.errors import RecipeError
from ttstrain.recipe.schema import EITHER_OR, SCHEDULES
from ttstrain.recipe.shipped import find_config, find_recipe, recipe_name
from ttstrain.recipe.yaml12 import MAX_BYTES, Document, read_document, read_value

COMMAND_LINE = "command line"
RECIPE = "recipe"
RUN_RECIPE = "recipe.yaml"  # in a run's folder: the resolved recipe, written by `render.recipe_yaml`

FIXED_KEYS: Mapping[str, str] = {
    "name": "the run's folder is named after it",
    "run_dir": "the run's folder already exists",
    "base": "the weights come from the run's checkpoint",
    "task": "the run's checkpoint holds that task's weights",
}
"""Keys that a resume cannot change, and why."""
NEW_RUN = "drop it, or start a new run from this one: `ttstrain finetune RECIPE --base RUN`"

_KEY = re.compile(r"[A-Za-z_][\w-]*(\.[\w-]+)*")
_NULLS = ("null", "Null", "NULL", "~")


class Removed:
    """The value of an override `~key`: the key falls back to its default."""


REMOVED = Removed()


@dataclass(frozen=True, slots=True)
class Composed:
    """A recipe's plain values, before they are checked against the schema."""

    values: dict[str, Any]
    origins: dict[str, str]  # dotted leaf -> "configs/models/x" | "recipe" | "command line"
    places: dict[str, str]  # dotted key -> "file:line" or "command line", for error messages
    source: Path

    @property
    def name(self) -> str:
        """Return what a run of this recipe is called when the recipe does not say: "quickstart", "smoke-flow"."""
        return recipe_name(self.source)


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping; raise RecipeError with file and line."""
    return _read_file(path).values


def parse_override(text: str) -> tuple[tuple[str, ...], Any]:
    """Parse `a.b=1e-5` into its path and value; `+a.b=1` and `++a.b=1` mean the same, `~a.b` gives REMOVED.

    A run may have a number for its name, such as a speaker's: `name=0367` is text.
    """
    removing = text.startswith("~")
    key, equals, written = text.removeprefix("~").partition("=")
    key = key.strip() if removing else key.strip().lstrip("+")
    if not _KEY.fullmatch(key) or bool(equals) == removing:
        raise RecipeError(f"`{text}` is not a `key=value`", hint="write `optim.lr=1e-5`, or `~optim.lr` to drop a key")
    path = tuple(key.split("."))
    value = REMOVED if removing else _value(key, written.strip())
    return path, written.strip() if path == ("name",) and isinstance(value, int | float) else value


def compose(recipe: str | Path, overrides: Sequence[str] = ()) -> Composed:
    """Read a recipe by path or shipped name and apply `key=value` overrides.

    `extends=[models/x]` among them replaces the recipe's list.
    """
    source = find_recipe(recipe)
    document = _read_file(source)
    parsed = [parse_override(text) for text in overrides]
    extends = dict(parsed).get(("extends",), document.values.get("extends", []))
    layers = _Layers()
    for name in _check_extends(extends):
        layers.add_config(name, beside=source.parent)
    places = {key: f"{source}:{line}" for key, line in document.lines.items()}
    layers.merge({key: value for key, value in document.values.items() if key != "extends"}, RECIPE, places)
    layers.override([(path, value) for path, value in parsed if path != ("extends",)])
    return Composed(layers.values, layers.origins, layers.places, source)


def with_flags(
    composed: Composed, *, data: Path | None = None, base: Sequence[str] | None = None, run_dir: Path | None = None
) -> Composed:
    """Set the keys of `--data`, `--base` and `--run-dir`, literally; None is an option not given."""
    flags = {"data.path": data, "run_dir": run_dir}
    given: dict[str, str | list[str]] = {key: str(value) for key, value in flags.items() if value is not None}
    if base:
        given["base"] = base[0] if len(base) == 1 else list(base)
    for key in given:
        # The place tells, too: the origin of a run's value may be the command line that it was started with.
        here = any(composed.places.get(above) == COMMAND_LINE for above in (key, key.partition(".")[0]))
        if here and composed.origins.get(key) == COMMAND_LINE:
            raise RecipeError(f"`{key}` is set by an option and by `{key}=...`", hint="give it once")
    layers = _Layers(copy.deepcopy(composed.values), dict(composed.origins), dict(composed.places))
    layers.override([(tuple(key.split(".")), value) for key, value in given.items()])
    return Composed(layers.values, layers.origins, layers.places, composed.source)


def with_defaults(composed: Composed, values: Mapping[str, Any], *, origin: str) -> Composed:
    """Set dotted keys that neither the recipe nor the command line sets, in the place of configs and defaults."""
    wanted = {key: value for key, value in values.items() if composed.origins.get(key) not in (RECIPE, COMMAND_LINE)}
    layers = _Layers(copy.deepcopy(composed.values), dict(composed.origins), dict(composed.places))
    for key, value in wanted.items():
        layer: Any = value
        for part in reversed(key.split(".")):
            layer = {part: layer}
        layers.merge(layer, origin, {key: origin})
    return Composed(layers.values, layers.origins, layers.places, composed.source)


def compose_run(run_dir: Path, overrides: Sequence[str] = (), *, origins: Mapping[str, str]) -> Composed:
    """Read a run's resolved recipe again, for `resume`.

    `origins` are those that the run's plan.json holds, so that they survive; an override's is the command line.
    """
    for path, _ in map(parse_override, overrides):
        if path == ("extends",):
            raise RecipeError(
                "a run's recipe already sets every value, so `extends` has no effect", hint="set keys one by one"
            )
        if path[0] in FIXED_KEYS:
            raise RecipeError(
                f"`{'.'.join(path)}` cannot change after a run has started: {FIXED_KEYS[path[0]]}", hint=NEW_RUN
            )
    composed = compose(run_dir / RUN_RECIPE, overrides)
    merged = {key: origins.get(key, RECIPE) if origin == RECIPE else origin for key, origin in composed.origins.items()}
    return Composed(composed.values, merged, composed.places, composed.source)


def _read_file(path: Path) -> Document:
    text = read_text(path, error=RecipeError, hint="a recipe is a YAML file, in UTF-8", most_bytes=MAX_BYTES)
    return read_document(text, source=str(path))


def _value(key: str, written: str) -> Any:
    """Read the value of an override; a value that YAML would quietly cut or drop is refused."""
    value = read_value(written, source=f"`{key}` on the {COMMAND_LINE}")
    if value is None and written not in _NULLS:
        raise RecipeError(f"`{key}=` has no value", hint=f"`{key}=null` sets it to nothing, `~{key}` to its default")
    if isinstance(value, str) and value != written and written[0] not in "'\"":
        raise RecipeError(f"`{key}={written}` would be read as `{value}`", hint="put quotes around the value")
    return value


def _check_extends(names: Any) -> list[str]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RecipeError("`extends` is a list of config names", hint="extends: [hardware/cpu]")
    if len(set(names)) < len(names):
        raise RecipeError(f"`extends` names a config twice: {', '.join(names)}", hint="keep one of them")
    return names


class _Layers:
    """What has been merged so far, each layer over the one before."""

    def __init__(
        self,
        values: dict[str, Any] | None = None,
        origins: dict[str, str] | None = None,
        places: dict[str, str] | None = None,
    ) -> None:
        self.values = values or {}
        self.origins = origins or {}
        self.places = places or {}

    def add_config(self, name: str, *, beside: Path) -> None:
        path = find_config(name, beside=beside)
        document = _read_file(path)
        if "extends" in document.values:
            raise RecipeError(
                f"{path}:{document.lines['extends']}: a config cannot extend another",
                hint="list both under the recipe's `extends`",
            )
        origin = name if name.endswith(path.suffix) else f"configs/{name}"
        self.merge(document.values, origin, {key: f"{path}:{line}" for key, line in document.lines.items()})

    def override(self, parsed: Sequence[tuple[tuple[str, ...], Any]]) -> None:
        given = {".".join(path) for path, value in parsed if value is not REMOVED}
        if both := [pair for pair in EITHER_OR.items() if given.issuperset(pair)]:
            raise RecipeError("give `{}` or `{}`, not both".format(*both[0]))
        # Keys are dropped before any is set. Then a schedule's kind goes first: changing it drops the old kind's keys,
        # not those given beside it.
        order = sorted(parsed, key=lambda item: (item[1] is not REMOVED, item[0][-2:] != ("schedule", "kind")))
        for path, value in order:
            self._set(path, value)

    def merge(self, layer: Mapping[str, Any], origin: str, places: Mapping[str, str]) -> None:
        self.places.update(places)
        self._merge(self.values, layer, origin, at="")

    def _merge(self, into: dict[str, Any], layer: Mapping[str, Any], origin: str, *, at: str) -> None:
        for key, value in layer.items():
            dotted = f"{at}.{key}" if at else key
            held = into.get(key)
            if isinstance(value, Mapping) and isinstance(held, dict):
                if key == "schedule":
                    self._change_kind(held, value, at=dotted)
                self._merge(held, value, origin, at=dotted)
            else:
                self._forget(dotted)
                into[key] = value
                self._note(dotted, value, origin)
                self._displace(into, dotted, value, layer)

    def _change_kind(self, held: dict[str, Any], layer: Mapping[str, Any], *, at: str) -> None:
        """Drop the keys that only the former kind of schedule knows, when a later layer names another kind."""
        kind = layer.get("kind")
        if not isinstance(kind, str) or kind not in SCHEDULES or kind == held.get("kind"):
            return
        for key in [key for key in held if key not in SCHEDULES[kind].model_fields]:
            del held[key]
            self._forget(f"{at}.{key}")

    def _displace(self, into: dict[str, Any], dotted: str, value: Any, layer: Mapping[str, Any]) -> None:
        """Drop what an earlier layer said in another way: `train.steps=100` ends a recipe's `epochs`."""
        other = EITHER_OR.get(dotted)
        if other is None or value is None:
            return
        key = other.rpartition(".")[2]
        if key in into and key not in layer:
            del into[key]
            self._forget(other)

    def _set(self, path: tuple[str, ...], value: Any) -> None:
        """Apply one override; a whole number in the path picks an element of a list."""
        dotted = ".".join(path)
        at: Any = self.values
        for depth, key in enumerate(path[:-1], start=1):
            at = _step_into(at, key, path=path[:depth])
        if value is REMOVED:
            self._remove(at, path)
        elif isinstance(at, list):
            at[_index(at, path[-1], path=path)] = value
            self._note(dotted, value, COMMAND_LINE)
        else:
            parent = ".".join(path[:-1])
            if path[-2:] == ("schedule", "kind"):
                self._change_kind(at, {"kind": value}, at=parent)
            self.places[dotted] = COMMAND_LINE
            self._merge(at, {path[-1]: value}, COMMAND_LINE, at=parent)

    def _remove(self, at: Any, path: tuple[str, ...]) -> None:
        dotted = ".".join(path)
        if not isinstance(at, dict) or path[-1] not in at:
            raise RecipeError(
                f"`~{dotted}`: nothing sets `{dotted}`", hint="only what a recipe or config sets can be dropped"
            )
        del at[path[-1]]
        self._forget(dotted)

    def _note(self, dotted: str, value: Any, origin: str) -> None:
        if isinstance(value, Mapping) and value:
            for key, inner in value.items():
                self._note(f"{dotted}.{key}", inner, origin)
        else:
            self.origins[dotted] = origin

    def _forget(self, dotted: str) -> None:
        for key in [key for key in self.origins if key == dotted or key.startswith(f"{dotted}.")]:
            del self.origins[key]


def _step_into(at: Any, key: str, *, path: tuple[str, ...]) -> Any:
    """Go one level down on the way to an override's key, making sections that are not there yet."""
    inner = at[_index(at, key, path=path)] if isinstance(at, list) else at.setdefault(key, {})
    if not isinstance(inner, dict | list):
        raise RecipeError(f"`{'.'.join(path)}` is `{inner}`, not a section", hint="`ttstrain schema` lists the keys")
    return inner


def _index(at: list[Any], key: str, *, path: tuple[str, ...]) -> int:
    dotted = ".".join(path)
    if not key.isdecimal() or int(key) >= len(at):
        raise RecipeError(f"`{dotted}`: the list has {len(at)} elements", hint=f"number them from 0 to {len(at) - 1}")
    return int(key)
