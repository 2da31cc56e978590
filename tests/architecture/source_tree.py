"""The package's source as a graph of imports, and the rules that the house stands on.

A tree maps a module's dotted name to its source text, so that a rule can be tried on a few lines with a planted fault.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

Tree = Mapping[str, str]
Graph = dict[str, set[str]]

PACKAGE = "ttstrain"
# From the bottom up. A room imports those below it, never one above. Files beside the rooms stand at the bottom,
# unless they are named. `registry` imports families by name when they are asked for, so it can stand below them.
ROOMS = (
    "ground",
    "recipe",
    "tensors",
    "contract",
    "registry",
    "data",
    "optim",
    "modules",
    "checkpoint",
    "families",
    "plan",
    "tracking",
    "bands",
    "train",
    "rehearsal",
    "forecast",
    "export",
    "infer",
    "judge",
    "recordings",
    "report",
    "runs",
    "prove",
    "trial",
    "cli",
)
LONGEST_FUNCTION = 60  # lines
# What families' upstreams and their formats are called, in any case and anywhere within a word.
UPSTREAMS = (r"(?<!hd)f5", r"e2[-_ ]?tts", r"gpt[-_ ]?sovits", "sovits", "orpheus", "snac")


def read_tree(folder: Path) -> dict[str, str]:
    """Read a package's modules, but for files that only ship with it."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        if "_shipped" not in parts:
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = path.read_text(encoding="utf-8")
    return found


def import_graph(tree: Tree) -> Graph:
    """Map each module to the modules of the tree that it imports: at any depth, `TYPE_CHECKING` included."""
    return {name: {target for target in _imports(source) if target in tree} for name, source in tree.items()}


def _imports(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def circles(graph: Graph) -> list[list[str]]:
    """Return the sets of modules that reach each other, each in order of names."""
    reached = {name: _reached(graph, name) for name in graph}
    found = {
        tuple(sorted({name, *(other for other in beyond if name in reached[other])}))
        for name, beyond in reached.items()
        if name in beyond
    }
    return [list(circle) for circle in sorted(found)]


def _reached(graph: Graph, start: str) -> set[str]:
    seen: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting.extend(graph[name])
    return seen


def room_of(module: str, tree: Tree) -> str:
    """Return the room that a module stands in."""
    parts = module.split(".")
    is_room = any(name.startswith(f"{module}.") for name in tree)
    if len(parts) > 2 or (len(parts) == 2 and is_room):
        return parts[1]
    return parts[1] if len(parts) == 2 and parts[1] in ROOMS else "ground"


def arrows_up(tree: Tree, rooms: Sequence[str] = ROOMS) -> list[str]:
    """Return each import of a room by one below it."""
    place = {room: number for number, room in enumerate(rooms)}
    return [
        f"{name} imports {target}"
        for name, targets in sorted(import_graph(tree).items())
        for target in sorted(targets)
        if name not in (PACKAGE, f"{PACKAGE}.__main__") and target != PACKAGE
        if place[room_of(name, tree)] < place[room_of(target, tree)]
    ]


def long_functions(tree: Tree, *, most: int = LONGEST_FUNCTION) -> list[str]:
    """Return the functions with more lines than that, decorators left out."""
    return [
        f"{name}:{node.lineno} {node.name} has {lines} lines"
        for name, source in sorted(tree.items())
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > most
    ]


class Named(NamedTuple):
    """Where a module names a family."""

    module: str
    line: int
    text: str


def names_of_families(tree: Tree) -> list[Named]:
    """Return what names a family or its upstream outside `families`: strings, identifiers and modules' names.

    Docstrings are left out, but for those that people read: of attributes, which a recipe's schema shows, and of the
    functions of `cli`, which `--help` shows.
    """
    folder = f"{PACKAGE}.families."
    families = {name.removeprefix(folder).split(".")[0] for name in tree if name.startswith(folder)}
    own = [rf"(?<![a-z]){name}(?![a-z])" for name in sorted(families)]
    pattern = re.compile("|".join([*UPSTREAMS, *own]), re.IGNORECASE)
    return [
        Named(name, line, text)
        for name, source in sorted(tree.items())
        if (room := room_of(name, tree)) != "families"
        for line, text in [(0, name), *_texts(ast.parse(source), with_help=room == "cli")]
        if pattern.search(text)
    ]


def _texts(module: ast.Module, *, with_help: bool) -> Iterator[tuple[int, str]]:
    """Yield every string and identifier of a module, each with its line."""
    skipped = _docstrings(module, with_help=with_help)
    for node in ast.walk(module):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes) and id(node) not in skipped:
            yield line, node.value if isinstance(node.value, str) else node.value.decode("latin-1")
        elif isinstance(node, ast.alias):
            yield from ((line, name) for name in (node.name, node.asname) if name)
        elif not isinstance(node, ast.Constant):
            names = (getattr(node, field, None) for field in ("name", "id", "attr", "arg", "module", "rest"))
            yield from ((line, name) for name in names if isinstance(name, str))


def _docstrings(module: ast.Module, *, with_help: bool) -> set[int]:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    documented = (ast.Module, ast.ClassDef) if with_help else (ast.Module, ast.ClassDef, *functions)
    return {
        id(node.body[0].value)
        for node in ast.walk(module)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
