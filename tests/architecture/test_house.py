"""The house has no stairs going up: no circles, imports only downwards, functions that can be read at once."""

from __future__ import annotations

from pathlib import Path

import pytest

import ttstrain
from tests.architecture.source_tree import (
    ROOMS,
    arrows_up,
    circles,
    import_graph,
    long_functions,
    names_of_families,
    read_tree,
    room_of,
)
from ttstrain import registry

TREE = read_tree(Path(ttstrain.__file__).parent)
FAMILIES = {f"ttstrain.families.{name}": "" for name in registry.names()}
NAMED_ALL_THE_SAME = {
    ("ttstrain.recipe.schema", "f5_linear"): "recipes say `optim.schedule.kind: f5_linear`, and recipes' words stay",
}


def test_every_module_stands_in_a_known_room() -> None:
    assert {room_of(name, TREE) for name in TREE} == set(ROOMS)
    assert len(TREE) > 300


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(import_graph(TREE)) == []


def test_imports_go_only_down() -> None:
    assert arrows_up(TREE) == []


def test_no_function_is_longer_than_a_screen() -> None:
    assert long_functions(TREE) == []


def test_only_families_name_a_family() -> None:
    found = names_of_families(TREE)
    assert [named for named in found if (named.module, named.text) not in NAMED_ALL_THE_SAME] == []
    assert {(named.module, named.text) for named in found} == set(NAMED_ALL_THE_SAME)  # none allowed in vain


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


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("kind = 'gpt_sovits/vae'", "gpt_sovits/vae"),
        ("hint = f'{1} such as the web tool of F5-TTS'", " such as the web tool of F5-TTS"),
        ("magic = b'SoVITS'", "SoVITS"),
        ("import ttstrain.families.orpheus.rows", "ttstrain.families.orpheus.rows"),
        ("from ttstrain.families.flow import FAMILY", "ttstrain.families.flow"),
        ("from a import decode as snac_decode", "snac_decode"),
        ("class ReadsF5: pass", "ReadsF5"),
        ("def is_f5_project(): pass", "is_f5_project"),
        ("lambda orpheus: 1", "orpheus"),
        ("f(e2_tts=1)", "e2_tts"),
        ("a.flow_task", "flow_task"),
        ("SNAC = 1", "SNAC"),
        ("class A:\n    kind: str\n    'What F5 does.'", "What F5 does."),
        ("try: pass\nexcept ValueError as f5: pass", "f5"),
    ],
)
@pytest.mark.parametrize("module", ["ttstrain.data.loader", "ttstrain.contract.data", "ttstrain.registry"])
def test_a_planted_name_of_a_family_is_found(module: str, line: str, text: str) -> None:
    found = names_of_families({**FAMILIES, module: f"\n{line}\n"})
    assert [(named.module, named.text) for named in found] == [(module, text)]
    assert found[0].line > 1


def test_a_planted_module_that_is_called_after_a_family_is_found() -> None:
    found = names_of_families({**FAMILIES, "ttstrain.data.readers.f5_project": ""})
    assert [(named.module, named.line) for named in found] == [("ttstrain.data.readers.f5_project", 0)]


def test_docstrings_may_say_where_something_comes_from_unless_people_are_shown_them() -> None:
    source = '"""As F5."""\nclass A:\n    """As F5."""\ndef f():\n    """As F5."""\n'
    others = {**FAMILIES, "ttstrain.data.overflow": "workflow = 'HDF5'"}
    assert names_of_families({**others, "ttstrain.data.a": source}) == []
    assert [named.text for named in names_of_families({**others, "ttstrain.cli.a": source})] == ["As F5."]
