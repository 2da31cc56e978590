"""Read YAML as people mean it: `1e-5` is a number, only `true` and `false` are booleans, no key is given twice.

PyYAML follows YAML 1.1, where `1e-5` is a string, `no` and `on` are booleans, `010` is eight and `1:30` is ninety.
These are the rules of YAML 1.2's core schema, without anchors, and with limits: a file can neither hang the reader nor
fill the memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ttstrain import documents
from ttstrain.documents import MAX_DIGITS
from ttstrain.errors import RecipeError, UserError

MAX_BYTES = 1 << 18  # takes PyYAML three seconds, and no recipe has a twentieth of it
MAX_DEPTH = 32  # sections in sections

_RULES = (
    ("null", r"(?:~|null|Null|NULL|)", "~nN\0"),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)", "tTfF"),
    ("int", r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))", "-+."),
)


_PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2's rules for plain scalars."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  PyYAML declares it so

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "anchors are not supported: write the value out", mark)
        if self.depth > MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"it is nested more than {MAX_DEPTH} deep", mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = str(node.value)
        if len(text) > MAX_DIGITS:
            problem = f"a number of {len(text)} digits"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)  # `010` is ten


for _tag, _pattern, _first in _RULES:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), [*_first, ""])
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


@dataclass(frozen=True, slots=True)
class Document:
    """A YAML mapping and the line of each of its keys."""

    values: dict[str, Any]
    lines: Mapping[str, int] = field(default_factory=dict)  # dotted key -> line number from 1


def read_document(text: str, *, source: str, error: type[UserError] = RecipeError) -> Document:
    """Parse one YAML mapping; raise `error` with `source` and the line for anything else."""
    lines: dict[str, int] = {}
    values = _parse(text, source=source, lines=lines, error=error)
    if values is None:
        return Document({})
    if not isinstance(values, dict):
        raise error(f"{source}: expected `key: value` lines", hint="`ttstrain recipes show quickstart` is an example")
    return Document(values, lines)


def read_file(path: Path, *, error: type[UserError]) -> dict[str, Any]:
    """Read the YAML mapping of another program. Raises `error` that names the file."""
    text = documents.read_text(path, error=error, most_bytes=MAX_BYTES)
    values = _parse(text, source=str(path), lines={}, error=error)
    if not isinstance(values, dict):
        raise error(f"`{path}` cannot be read: it holds no `key: value` lines")
    return values


def read_value(text: str, *, source: str) -> Any:
    """Parse one YAML value, as on the command line."""
    return _parse(text, source=source, lines={}, error=RecipeError)


def _parse(text: str, *, source: str, lines: dict[str, int], error: type[UserError]) -> Any:
    if len(text) > MAX_BYTES:
        raise error(f"{source}: larger than {MAX_BYTES >> 10} KiB, which is too large for a recipe or config")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return None if node is None else _plain_value(loader, node, at="", source=source, lines=lines, error=error)
    except yaml.MarkedYAMLError as fault:
        where = f"{source}:{fault.problem_mark.line + 1}" if fault.problem_mark else source
        raise error(f"{where}: {fault.problem}", hint="this is not valid YAML; check quotes and indents") from fault
    except (yaml.YAMLError, ValueError, RecursionError) as fault:
        raise error(f"{source}: {fault}", hint="this is not valid YAML") from fault


def _plain_value(
    loader: _Loader, node: yaml.Node, *, at: str, source: str, lines: dict[str, int], error: type[UserError]
) -> Any:
    """Turn a node into plain values, noting each key's line."""
    if not isinstance(node, yaml.ScalarNode) and node.tag not in _PLAIN_TAGS:
        raise yaml.constructor.ConstructorError(None, None, f"the tag `{node.tag}` is not supported", node.start_mark)
    if isinstance(node, yaml.SequenceNode):
        return [
            _plain_value(loader, item, at=f"{at}.{index}", source=source, lines=lines, error=error)
            for index, item in enumerate(node.value)
        ]
    if not isinstance(node, yaml.MappingNode):
        return _scalar(loader, node)
    built: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = _scalar(loader, key_node)
        line = key_node.start_mark.line + 1
        if not isinstance(key, str):
            raise error(f"{source}:{line}: `{key}` is not a name", hint="put quotes around a key that is a number")
        dotted = f"{at}.{key}" if at else key
        if key in built:
            raise error(
                f"{source}:{line}: `{dotted}` is given twice, first on line {lines[dotted]}", hint="keep one of them"
            )
        lines[dotted] = line
        built[key] = _plain_value(loader, value_node, at=dotted, source=source, lines=lines, error=error)
    return built


def _scalar(loader: _Loader, node: yaml.Node) -> Any:
    try:
        return loader.construct_object(node)
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ) as fault:  # of an explicit tag that does not fit
        raise yaml.constructor.ConstructorError(
            None, None, f"`{str(node.value)[:40]}` is not a `{node.tag}`", node.start_mark
        ) from fault
