from __future__ import annotations

import math
import re

import pytest

from ttstrain.errors import RecipeError
from ttstrain.recipe.yaml12 import read_document, read_value


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-5", 1e-5),
        ("1E5", 1e5),
        ("-2.5e+3", -2500.0),
        (".5", 0.5),
        ("7.", 7.0),
        ("010", 10),
        ("0x1F", 31),
        ("+3", 3),
        ("true", True),
        ("False", False),
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("1:30", "1:30"),
        ("2024-01-02", "2024-01-02"),
        ("~", None),
        ("null", None),
        ("''", ""),
        ("'1e-5'", "1e-5"),
        ("a#b", "a#b"),
        ("[1, 2e-1, on, null]", [1, 0.2, "on", None]),
        ("{a: 1e-5, b: [x]}", {"a": 1e-5, "b": ["x"]}),
    ],
)
def test_values_follow_yaml_1_2(written: str, value: object) -> None:
    read = read_value(written, source="x")
    assert read == value
    assert type(read) is type(value)


def test_infinities_are_numbers() -> None:
    assert read_value("-.inf", source="x") == -math.inf
    assert math.isnan(read_value(".nan", source="x"))


def test_every_key_knows_its_line() -> None:
    document = read_document("a: 1\nb:\n  c: 2\n  d: {e: 3}\nf:\n  - g: 4\n", source="r.yaml")
    assert document.values == {"a": 1, "b": {"c": 2, "d": {"e": 3}}, "f": [{"g": 4}]}
    assert document.lines == {"a": 1, "b": 2, "b.c": 3, "b.d": 4, "b.d.e": 4, "f": 5, "f.0.g": 6}


def test_an_empty_file_is_an_empty_recipe() -> None:
    assert read_document("# nothing\n", source="r.yaml").values == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2\n", "r.yaml:4: `b.c` is given twice, first on line 3"),
        ("a: 1\nb: {x: 1, x: 2}\n", "r.yaml:2: `b.x` is given twice, first on line 2"),
        ("a: [1,\nb: 2\n", "r.yaml:3: "),
        ("a: 1\n\tb: 2\n", "r.yaml:2: "),
        ("a: &x 1\nb: *x\n", "r.yaml:2: anchors are not supported"),
        ("a: !!python/object/apply:os.system [ls]\n", "r.yaml:1: the tag"),
        ("a: !!python/name:os.system\n", "r.yaml:1: could not determine a constructor"),
        ("a: 1\n---\nb: 2\n", "r.yaml:2: "),
        ("- a\n- b\n", "r.yaml: expected `key: value` lines"),
        ("just words\n", "r.yaml: expected `key: value` lines"),
        ("1: a\n", "r.yaml:1: `1` is not a name"),
        ("a: \x00\n", "r.yaml: "),
    ],
)
def test_a_broken_file_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)) as caught:
        read_document(text, source="r.yaml")
    assert caught.value.hint
