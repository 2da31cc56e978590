"""Errors of a recipe: the dotted key, the file and line, and the nearest known key."""

from __future__ import annotations

import difflib
import types
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from ttstrain import registry
from ttstrain.errors import RecipeError

OTHER_NAMES = {  # key -> other trainers' names
    "learning_rate": "lr",
    "batch_size": "batch_frames",
    "batch_size_per_gpu": "batch_frames",
    "max_samples": "max_clips",
    "max_steps": "steps",
    "num_epochs": "epochs",
    "grad_accumulation_steps": "accumulate",
    "gradient_accumulation_steps": "accumulate",
    "num_warmup_updates": "warmup_steps",
    "warmup": "warmup_steps",
    "warmup_ratio": "warmup_steps",
    "grad_clip": "max_grad_norm",
    "clip": "max_grad_norm",
    "num_workers": "workers",
    "mixed_precision": "precision",
    "bf16": "precision",
    "fp16": "precision",
    "save_steps": "every",
    "report_to": "wandb",
}
_WANTED = {  # by pydantic's type of error
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text",
    "string_pattern_mismatch": "a plain name without slashes, not starting with a dot",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "`key: value` lines",
}


def complaint(
    error: ValidationError,
    *,
    values: Mapping[str, Any],
    places: Mapping[str, str],
    known: Sequence[str],
    at: tuple[str, ...] = (),
) -> RecipeError:
    """Turn pydantic's findings into one error.

    `values` are the validated values, at the dotted prefix `at` of the recipe; `known` are the dotted keys of the
    whole recipe. The hint is the first finding's.
    """
    findings: dict[str, list[Any]] = {}
    for detail in error.errors():
        findings.setdefault(".".join([*at, *_path(detail["loc"], values)]), []).append(detail)
    lines = [f"{_place(key, places)}{_what(key, details)}" for key, details in findings.items()]
    first, *others = lines
    hint = _hint(*next(iter(findings.items())), known=known)
    return RecipeError(first, details=[f"       {line}" for line in others], hint=hint)


def no_such_choice(key: str, written: str, choices: Sequence[str], places: Mapping[str, str]) -> RecipeError:
    """Make the error for a value that is none of a key's choices, worded as in `complaint`."""
    *most, last = (f"'{choice}'" for choice in choices)
    return RecipeError(
        f"{_place(key, places)}`{key}` is `{written}`: it should be {', '.join(most)} or {last}",
        hint="`ttstrain schema` says what each key takes",
    )


def known_keys(schema: type[BaseModel], at: str = "") -> list[str]:
    """List every dotted key of a schema, sections included; elements of lists and free names are written `*`."""
    keys: list[str] = []
    for name, info in schema.model_fields.items():
        dotted = f"{at}.{name}" if at else name
        keys.append(dotted)
        for section, suffix in _sections(info.annotation):
            keys += [key for key in known_keys(section, dotted + suffix) if key not in keys]
    return keys


def _sections(annotation: Any) -> Iterator[tuple[type[BaseModel], str]]:
    """Find the sections inside a type, with `.*` for those that lie in a list or a mapping."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _sections(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for option in get_args(annotation):
            yield from _sections(option)
    elif origin in (list, dict):
        yield from ((section, f".*{suffix}") for section, suffix in _sections(get_args(annotation)[-1]))
    elif origin is None and isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, ""


def _path(loc: tuple[int | str, ...], values: Any) -> list[str]:
    """Follow pydantic's location through the values, leaving out its names for the options of a union."""
    path: list[str] = []
    for position, part in enumerate(loc):
        children = dict(enumerate(values)) if isinstance(values, list | tuple) else values
        if not isinstance(children, Mapping):
            break
        if part in children:
            values = children[part]
        elif position < len(loc) - 1:  # the last part may name a key that is missing
            continue
        path.append(str(part))
    return path


def _place(key: str, places: Mapping[str, str]) -> str:
    while key and key not in places:
        key = key.rpartition(".")[0]
    return f"{places[key]}: " if key else ""


def _what(key: str, details: Sequence[Any]) -> str:
    detail = details[0]
    if detail["type"] == "extra_forbidden":
        return f"unknown key `{key}`"
    if detail["type"] == "missing":
        return f"`{key}` is missing"
    if detail["type"] in ("model_type", "model_attributes_type"):
        return f"`{key}` is a section with keys of its own, not `{_shown(detail['input'])}`"
    if detail["type"] == "union_tag_invalid":
        return f"`{key}.kind` is `{detail['ctx']['tag']}`: expected one of {detail['ctx']['expected_tags']}"
    if detail["type"] == "value_error":
        return f"`{key}`: {detail['ctx']['error']}" if key else str(detail["ctx"]["error"])
    wanted = dict.fromkeys(
        _WANTED.get(detail["type"], str(detail["msg"]).removeprefix("Input should be ")) for detail in details
    )
    return f"`{key}` is `{_shown(detail['input'])}`: it should be {', or '.join(wanted)}"


def _shown(value: Any) -> str:
    """Write a value as a recipe does."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _hint(key: str, details: Sequence[Any], *, known: Sequence[str]) -> str | None:
    kind = details[0]["type"]
    if kind == "missing" and key == "task":
        return "choose what to train: " + " or ".join(f"`task: {name}`" for name in registry.tasks())
    if kind == "model_type" and details[0]["input"] is None:
        return "give it keys, or remove the empty line"
    if kind == "value_error":
        return None  # the message already names them
    if kind != "extra_forbidden":
        return "`ttstrain schema` says what each key takes"
    if near := nearest_key(key, known):
        return f"did you mean `{near}`?"
    return "`ttstrain schema` lists the keys"


def nearest_key(key: str, known: Sequence[str]) -> str | None:
    """Find the known key that the writer of `key` may have meant: a sibling first, then anywhere by its last name."""
    parent, _, name = key.rpartition(".")
    siblings = {_name(other) for other in known if _like(other.rpartition(".")[0], parent)}
    meant = OTHER_NAMES.get(name, name)
    for near in (meant, *_near(name, siblings, cutoff=0.77)):
        if near in siblings:
            return f"{parent}.{near}" if parent else near
    sections = {_name(other.rpartition(".")[0]) for other in known}
    names = {_name(other) for other in known} - sections
    elsewhere = [meant] if meant in names else _near(name, names, cutoff=0.72)
    return min(
        (other for other in known if elsewhere and _name(other) == elsewhere[0]),
        key=lambda other: ("*" in other, other.count(".")),
        default=None,
    )


def _near(name: str, names: Collection[str], *, cutoff: float) -> list[str]:
    """Find the most similar name; names that only lack words of `name` do not count: those words carry its meaning."""
    some = [other for other in names if not name.startswith(f"{other}_") and not name.endswith(f"_{other}")]
    longer = [other for other in sorted(some) if other.startswith(f"{name}_")]
    return longer[:1] or difflib.get_close_matches(name, some, n=1, cutoff=cutoff)


def _name(key: str) -> str:
    return key.rpartition(".")[2]


def _like(pattern: str, key: str) -> bool:
    """Compare dotted keys, `*` standing for any one name."""
    ours, theirs = pattern.split("."), key.split(".")
    return len(ours) == len(theirs) and all(our in ("*", their) for our, their in zip(ours, theirs, strict=True))
