"""The package's source as a graph of imports, and the rules that the house stands on.

A tree maps a module's dotted name to its source text, so that a rule can be tried on a few lines with a planted fault.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

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
    "train",
    "judge",
    "export",
    "infer",
    "runs",
    "cli",
)
LONGEST_FUNCTION = 60  # lines


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
