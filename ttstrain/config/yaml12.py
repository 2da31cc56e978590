"""Read YAML as people mean it: `1e-5` is a number, only `true` and `false` are booleans, no key is given twice.

PyYAML follows YAML 1.1, where `1e-5` is a string, `no` and `on` are booleans, `010` is eight and `1:30` is ninety.
These are the rules of YAML 1.2's core schema, without anchors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from ttstrain.errors import RecipeError

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

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "anchors are not supported: write the value out", mark)
        return super().compose_node(parent, index)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = str(node.value)
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)  # `010` is ten


for _tag, _pattern, _first in _RULES:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), [*_first, ""])
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


@dataclass(frozen=True, slots=True)
class Document:
    """A YAML mapping and the line of each of its keys."""

    values: dict[str, Any]
    lines: Mapping[str, int] = field(default_factory=dict)  # dotted key -> line number from 1


def read_document(text: str, *, source: str) -> Document:
    """Parse one YAML mapping; raise RecipeError with `source` and the line for anything else."""
    lines: dict[str, int] = {}
    values = _parse(text, source=source, lines=lines)
    if values is None:
        return Document({})
    if not isinstance(values, dict):
        raise RecipeError(
            f"{source}: expected `key: value` lines", hint="`ttstrain recipes show quickstart` is an example"
        )
    return Document(values, lines)


def read_value(text: str, *, source: str) -> Any:
    """Parse one YAML value, as on the command line."""
    return _parse(text, source=source, lines={})


def _parse(text: str, *, source: str, lines: dict[str, int]) -> Any:
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return None if node is None else _build(loader, node, at="", source=source, lines=lines)
    except yaml.MarkedYAMLError as error:
        where = f"{source}:{error.problem_mark.line + 1}" if error.problem_mark else source
        raise RecipeError(
            f"{where}: {error.problem}", hint="this is not valid YAML; check quotes and indents"
        ) from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{source}: {error}", hint="this is not valid YAML") from error


def _build(loader: _Loader, node: yaml.Node, *, at: str, source: str, lines: dict[str, int]) -> Any:
    """Turn a node into plain values, noting each key's line."""
    if not isinstance(node, yaml.ScalarNode) and node.tag not in _PLAIN_TAGS:
        raise yaml.constructor.ConstructorError(None, None, f"the tag `{node.tag}` is not supported", node.start_mark)
    if isinstance(node, yaml.SequenceNode):
        return [
            _build(loader, item, at=f"{at}.{index}", source=source, lines=lines)
            for index, item in enumerate(node.value)
        ]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    built: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node)
        line = key_node.start_mark.line + 1
        if not isinstance(key, str):
            raise RecipeError(f"{source}:{line}: `{key}` is not a name", hint="put quotes round a key that is a number")
        dotted = f"{at}.{key}" if at else key
        if key in built:
            raise RecipeError(
                f"{source}:{line}: `{dotted}` is given twice, first on line {lines[dotted]}", hint="keep one of them"
            )
        lines[dotted] = line
        built[key] = _build(loader, value_node, at=dotted, source=source, lines=lines)
    return built
