"""The house has no stairs going up: no circles, imports only downwards, functions that can be read at once."""

from __future__ import annotations

from pathlib import Path

import pytest

import ttstrain
from tests.architecture.source_tree import ROOMS, arrows_up, circles, import_graph, long_functions, read_tree, room_of

TREE = read_tree(Path(ttstrain.__file__).parent)


def test_every_module_stands_in_a_known_room() -> None:
    assert {room_of(name, TREE) for name in TREE} == set(ROOMS)
    assert len(TREE) > 300


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(import_graph(TREE)) == []


def test_imports_go_only_down() -> None:
    assert arrows_up(TREE) == []


def test_no_function_is_longer_than_a_screen() -> None:
    assert long_functions(TREE) == []


# ---------------------------------------------------------------- the rules see what breaks them


@pytest.mark.parametrize(
    "back",
    [
        "import ttstrain.data.b",
        "from ttstrain.data import b",
        "from ttstrain.data.b import f",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ttstrain.data.b import f",
        "def late():\n    from ttstrain.data.b import f",
    ],
)
def test_a_planted_circle_is_found(back: str) -> None:
    tree = {"ttstrain.data": "", "ttstrain.data.b": "from ttstrain.data.c import g", "ttstrain.data.c": back}
    assert ["ttstrain.data.b", "ttstrain.data.c"] in [
        [name for name in circle if name != "ttstrain.data"] for circle in circles(import_graph(tree))
    ]


def test_a_longer_circle_is_found_and_what_hangs_on_it_is_not_of_it() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"a"}}
    assert circles(graph) == [["a", "b", "c"]]


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("ttstrain.recipe.schema", "from ttstrain.data.loader import Loader"),
        ("ttstrain.data.loader", "def late():\n    from ttstrain.cli.main import app"),
        ("ttstrain.errors", "from ttstrain.recipe import schema"),
        ("ttstrain.registry", "from ttstrain.families.flow import FAMILY"),
    ],
)
def test_a_planted_arrow_up_is_found(module: str, line: str) -> None:
    tree = {**TREE, module: f"{TREE[module]}\n{line}\n"}
    found = arrows_up(tree)
    assert found
    assert all(arrow.startswith(f"{module} imports ttstrain.") for arrow in found)


def test_a_planted_long_function_is_found() -> None:
    fits = "def f():\n" + "    pass\n" * 59
    assert long_functions({"ttstrain.a": fits}) == []
    assert long_functions({"ttstrain.a": fits + "    pass\n"}) == ["ttstrain.a:1 f has 61 lines"]
