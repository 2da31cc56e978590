"""Write a recipe as YAML with a comment behind every value; what is written here reads back equal."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

_PLAIN = re.compile(r"[A-Za-z][\w./-]*")  # strings that need no quotes anywhere
_WORDS = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")  # booleans to other YAML readers
COMMENT_COLUMN = 44


def emit(values: Mapping[str, Any], comment: Callable[[str], str | None]) -> str:
    """Return YAML; `comment` gives the remark for a dotted key, or None."""
    return "\n".join(_mapping(values, at="", indent=0, comment=comment)) + "\n"


def scalar(value: Any) -> str:
    """Write one value so that YAML 1.1 and 1.2 readers agree on it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        mantissa, exponent, power = repr(value).partition("e")
        return f"{mantissa}{'' if '.' in mantissa or not exponent else '.0'}{exponent}{power}"
    if isinstance(value, str):
        if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
            return value
        return yaml.safe_dump(value, default_style='"', allow_unicode=True, width=2**31).strip()
    return str(value)


def _mapping(values: Mapping[str, Any], *, at: str, indent: int, comment: Callable[[str], str | None]) -> list[str]:
    lines: list[str] = []
    for key, value in sorted(values.items(), key=lambda item: item[0] != "kind"):  # what the other keys depend on
        dotted = f"{at}.{key}" if at else key
        name = f"{' ' * indent}{scalar(key)}:"
        if isinstance(value, Mapping) and value:
            lines += [name, *_mapping(value, at=dotted, indent=indent + 2, comment=comment)]
        elif isinstance(value, Sequence) and any(isinstance(item, Mapping) for item in value):
            lines.append(_remark(name, comment(dotted)))
            for index, item in enumerate(value):
                inner = _mapping(item, at=f"{dotted}.{index}", indent=indent + 4, comment=comment)
                lines += [f"{' ' * (indent + 2)}- {inner[0].lstrip()}", *inner[1:]]
        else:
            lines.append(_remark(f"{name} {_inline(value)}", comment(dotted)))
    return lines


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(_inline(item) for item in value)}]"
    return scalar(value)


def _remark(line: str, comment: str | None) -> str:
    return f"{line:{COMMENT_COLUMN}}  # {comment}" if comment else line
