"""Edits of documents that are trees: JSON, JSON lines and YAML.

The tree is edited, not its text, so that most results parse: wrong types, sizes at the limits, keys that are missing,
strange or given twice, and texts that are no names. Some results are broken on purpose.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from hostile.mutation import Edited, plain_bytes


@dataclass(frozen=True, slots=True)
class Raw:
    """A piece of a document as it is written."""

    text: str


@dataclass(frozen=True, slots=True)
class Twice:
    """An object one of whose keys is given twice."""

    values: dict[str, Any]
    key: str
    again: Any


TEXTS = (
    "",
    " ",
    "a\0b",
    "\u202e../x\u202d",
    "\ud800",
    "\ufeff",
    "../../../../etc/passwd",
    "/etc/passwd",
    "/dev/zero",
    "~root",
    "..",
    ".",
    "C:\\windows\\system32",
    "\\\\host\\share",
    "hf://../../etc",
    "$(touch canary)",
    "'; touch canary;'",
    "<script>alert(1)</script>",
    "x" * 70_000,
    "\n\r\t\x1b[31m",
    "nan",
    "١٢٣",
    "0x10",
    "1e5",
    "True",
    "null",
    "%s%n{0}{x!r}",
    "step-00000001",
    "=cmd|' /C calc'!A0",
    "e\u0301" * 50,
)
NUMBERS: tuple[Any, ...] = (
    0,
    -0.0,
    -1,
    1,
    2,
    0.5,
    -0.5,
    2**31,
    2**53 + 1,
    2**63,
    2**64,
    10**99,
    -(10**99),
    1e308,
    -1e308,
    5e-324,
    Raw("1" + "0" * 5000),
    Raw("NaN"),
    Raw("Infinity"),
    Raw("-Infinity"),
    Raw("1e999"),
    Raw("-0"),
    Raw("1.0000000000000000000000000001"),
    Raw("01"),
)


def nested(depth: int, *, kind: str) -> Raw:
    """Write containers in containers."""
    return Raw("[" * depth + "]" * depth) if kind == "list" else Raw('{"a":' * depth + "1" + "}" * depth)


def anything(rng: Random) -> Any:
    """Make a value of any type."""
    kind = rng.randrange(8)
    if kind == 0:
        return rng.choice((None, True, False))
    if kind in (1, 2):
        return rng.choice(NUMBERS)
    if kind in (3, 4):
        return rng.choice(TEXTS)
    if kind == 5:
        return rng.choice(([], {}, [[]], [None], [0], [""], {"": ""}, {"a": 1}, [1, "a"], [{}], {"a": None}, [[1, 2]]))
    if kind == 6:
        return nested(rng.choice((5, 60, 200, 6000)), kind=rng.choice(("list", "dict")))
    return rng.choice(([0] * 3000, {str(number): number for number in range(2000)}, ["x" * 100] * 100))


# ---------------------------------------------------------------- one edit of a tree

Place = tuple[Any, Any]  # container, key or index


def places(tree: Any) -> Iterator[Place]:
    """Yield every place in a tree."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield tree, key
            yield from places(value)
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield tree, index
            yield from places(value)


def edit_tree(rng: Random, tree: Any) -> tuple[Any, str]:
    """Return a changed copy of a tree, and what was done."""
    changed = copy.deepcopy(tree)
    found = list(places(changed))
    if not found or rng.random() < 0.03:
        return anything(rng), "another value for the whole"
    shallow = [place for place in found if place[0] is changed]
    holder, key = rng.choice(shallow if rng.random() < 0.35 else found)
    how = rng.choice(_EDITS)(rng, holder, key)
    if isinstance(how, Twice):
        return _put_in(changed, holder, how), f"`{str(key)[:40]}` given twice"
    return changed, f"{how} at `{str(key)[:40]}`"


def _replace(rng: Random, holder: Any, key: Any) -> str:
    holder[key] = anything(rng)
    return "another value"


def _near(rng: Random, holder: Any, key: Any) -> str:
    """Change a value within its type."""
    value = holder[key]
    if isinstance(value, bool):
        holder[key] = not value
    elif isinstance(value, int | float):
        holder[key] = rng.choice((value + 1, value - 1, -value, value * 1_000_000, value / 2, *NUMBERS[:6]))
    elif isinstance(value, str):
        place = rng.randint(0, len(value))
        holder[key] = value[:place] + rng.choice(("", "x", "\0", "/", "\u202e", "é", " ", '"')) + value[place + 1 :]
    elif isinstance(value, list):
        holder[key] = rng.choice((value * 2, value[::-1], value[:-1], [*value, anything(rng)]))
    else:
        return _replace(rng, holder, key)
    return "a near value"


def _remove(rng: Random, holder: Any, key: Any) -> str:
    del holder[key]
    return "removed"


def _rename(rng: Random, holder: Any, key: Any) -> str:
    if not isinstance(holder, dict):
        return _remove(rng, holder, key)
    holder[rng.choice((str(key).upper(), f"{key} ", f"{key}\u200b", "", "$tensor", "__class__", "x" * 5000))] = (
        holder.pop(key)
    )
    return "renamed"


def _add(rng: Random, holder: Any, key: Any) -> str:
    if isinstance(holder, dict):
        holder[rng.choice(("more", "__init__", "schema", "$dict", "step", "\ud800"))] = anything(rng)
    else:
        holder.insert(rng.randint(0, len(holder)), anything(rng))
    return "another entry"


def _wrap(rng: Random, holder: Any, key: Any) -> str:
    holder[key] = [holder[key]] if rng.random() < 0.5 else {"a": holder[key]}
    return "put into a container"


def _unwrap(rng: Random, holder: Any, key: Any) -> str:
    value = holder[key]
    if isinstance(value, dict | list) and value:
        holder[key] = next(iter(value.values())) if isinstance(value, dict) else value[0]
        return "taken out of its container"
    return _replace(rng, holder, key)


def _swap(rng: Random, holder: Any, key: Any) -> str:
    other = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    holder[key], holder[other] = holder[other], holder[key]
    return "two values swapped"


def _twice(rng: Random, holder: Any, key: Any) -> Any:
    if isinstance(holder, dict):
        return Twice(dict(holder), str(key), anything(rng))
    holder.append(holder[key])
    return "repeated"


_EDITS: tuple[Callable[[Random, Any, Any], Any], ...] = (
    *(_replace,) * 5,
    *(_near,) * 4,
    _remove,
    _remove,
    _rename,
    _add,
    _wrap,
    _unwrap,
    _swap,
    _twice,
)


def _put_in(tree: Any, holder: Any, new: Any) -> Any:
    """Return a tree with `new` in the place of one of its containers."""
    if tree is holder:
        return new
    for container, key in list(places(tree)):
        if container[key] is holder:
            container[key] = new
            break
    return tree


# ---------------------------------------------------------------- writing


def written(tree: Any) -> str:
    """Write a tree as JSON, with what JSON's own writer cannot."""
    if isinstance(tree, Raw):
        return tree.text
    if isinstance(tree, Twice):
        pairs = [*tree.values.items(), (tree.key, tree.again)]
        return "{" + ",".join(f"{json.dumps(str(key))}:{written(value)}" for key, value in pairs) + "}"
    if isinstance(tree, dict):
        return "{" + ",".join(f"{json.dumps(str(key))}:{written(value)}" for key, value in tree.items()) + "}"
    if isinstance(tree, list | tuple):
        return "[" + ",".join(map(written, tree)) + "]"
    return json.dumps(tree)


def edit_json(rng: Random, content: bytes) -> Edited:
    """Edit one document."""
    if rng.random() < 0.15:
        return plain_bytes(rng, content)
    try:
        tree, how = edit_tree(rng, json.loads(content))
    except ValueError:
        return plain_bytes(rng, content)
    return Edited(written(tree).encode("utf-8", "surrogatepass"), how, plain=True)


def edit_json_lines(rng: Random, content: bytes) -> Edited:
    """Edit one line of a file of JSON lines, or the file as text."""
    lines = content.split(b"\n")
    if rng.random() < 0.15 or len(lines) < 2:
        return plain_bytes(rng, content)
    number = rng.randrange(len(lines) - 1)
    changed = edit_json(rng, lines[number])
    lines[number] = changed.content
    if rng.random() < 0.1:
        lines.insert(
            rng.randrange(len(lines)), rng.choice((b"", b"[]", b"null", b"{", b"1", b"\xff\xfe", b'{"a":1}{}'))
        )
    return Edited(b"\n".join(lines), f"line {number + 1}: {changed.how}", plain=True)


# ---------------------------------------------------------------- YAML

_SNIPPETS = (
    "a: &x [1, 2]\nb: *x\n",
    "!!python/object/apply:os.system ['touch canary']\n",
    "a: !!python/object/new:os.system ['touch canary']\n",
    "a: !!python/name:os.system\n",
    "a: !!binary aGVsbG8=\n",
    "a: !!int x\n",
    "a: !!set {1, 2}\n",
    "a: !!timestamp 2001-12-14\n",
    "<<: {a: 1}\n",
    "? [1, 2]\n: 3\n",
    "? {a: 1}\n: 3\n",
    "%YAML 9.9\n---\na: 1\n",
    "--- 1\n--- 2\n",
    "a: |9\n  x\n",
    'a: "\\ud800"\n',
    "a: \x07\n",
    "\ta: 1\n",
    "a: [\n" * 500,
    "{" * 3000,
    "a:\n " * 10,
    "- " * 4000 + "\n",
    "a: " + "9" * 9000 + "\n",
    "a: 0x" + "f" * 9000 + "\n",
    "'" * 5000,
    "a: !<tag:yaml.org,2002:python/object:x> 1\n",
    "? " * 3000,
    "a: " + '"' + "\\" * 4001,
)


def edit_yaml(rng: Random, content: bytes) -> Edited:
    """Edit a YAML file: as a tree, as lines, or by adding what YAML allows and nobody should write."""
    import yaml

    kind = rng.random()
    text = content.decode("utf-8", "replace")
    if kind < 0.15:
        return plain_bytes(rng, content)
    if kind < 0.4:
        lines = text.split("\n")
        lines.insert(rng.randint(0, len(lines)), rng.choice(_SNIPPETS))
        return Edited("\n".join(lines).encode("utf-8", "surrogatepass"), "a line that YAML allows", plain=True)
    if kind < 0.5:
        return Edited(rng.choice(_SNIPPETS).encode("utf-8", "surrogatepass"), "another document", plain=True)
    tree, how = edit_tree(rng, yaml.safe_load(text))
    return Edited(written(tree).encode("utf-8", "surrogatepass"), how, plain=True)  # JSON is YAML
