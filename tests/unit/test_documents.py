"""One reader for JSON: what it takes, and that everything else is an error a person can act on."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from ttstrain import documents
from ttstrain.errors import CheckpointError, DataError, RecipeError
from ttstrain.recipe import yaml12


@pytest.mark.parametrize(
    "value", [{}, [], None, True, 1, -0.5, "ä\n", {"a": [1, {"b": None}]}, [[[]]], 10**documents.MAX_DIGITS // 10]
)
def test_what_json_writes_is_read_back(value: object, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(value, ensure_ascii=False).encode())
    assert documents.read_json(path, error=DataError) == value
    assert documents.parse(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is not JSON (Expecting value"),
        (b'{"a": 1', "it is not JSON (Expecting"),
        (b'{"a": 1}\n{"b": 2}', "it is not JSON (Extra data: line 2"),
        (b'{"a": "caf\xc3', "line 1 is not UTF-8 (byte 0xc3 at 10)"),
        (b"\xff\xfe{\x00}\x00", "line 1 is not UTF-8"),
        (b'{"a": 1, "b": 2, "a": 3}', "the key `a` is given twice"),
        (b'{"a": NaN}', "NaN instead of a number"),
        (b'{"a": -Infinity}', "-Infinity instead of a number"),
        (b'{"a": 1e999}', "the number 1e999 is too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a number of 5000 digits"),
        (b"[" * 65 + b"]" * 65, "nested more than 64 deep"),
        (b'{"a":' * 100_000, "nested more than 64 deep"),
        (b"[" * 100_000 + b"]" * 100_000, "nested more than 64 deep"),
    ],
)
def test_anything_else_is_refused_with_the_file_and_the_reason(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        documents.read_json(path, error=CheckpointError, hint="copy it again")
    assert caught.value.message.startswith(f"`{path}` cannot be read: ")
    assert reason in caught.value.message
    assert caught.value.hint == "copy it again"


def test_numbers_that_are_none_are_read_where_a_log_may_hold_them() -> None:
    assert repr(documents.parse("[NaN, Infinity, -Infinity, 1e999]", numbers="any")) == "[nan, inf, -inf, inf]"


def test_sixty_four_containers_in_each_other_are_allowed() -> None:
    assert documents.parse("[" * 64 + "1" + "]" * 64)
    assert len(documents.parse("[" + "[]," * 1000 + "[]]")) == 1001


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "it holds a list instead of an object"),
        ("null", "it holds nothing instead of an object"),
        ('{"a": 1}', "`name` is missing"),
        ('{"name": 1}', "`name` is a whole number, not a text"),
        ('{"name": "x", "steps": true}', "`steps` is a boolean, not a whole number"),
        ('{"name": "x", "steps": 1.5}', "`steps` is a number, not a whole number"),
        ('{"name": "x", "steps": 1, "rate": "1"}', "`rate` is a text, not a number"),
    ],
)
def test_an_object_is_asked_for_what_it_must_hold(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        documents.read_object(path, error=RecipeError, keys={"name": str, "steps": int, "rate": float})
    assert caught.value.message == f"`{path}` cannot be read: {reason}"


def test_a_whole_number_is_a_number() -> None:
    assert documents.check_object({"rate": 1}, {"rate": float}) == {"rate": 1}


@pytest.mark.parametrize("read", [documents.read_text, documents.read_json, documents.read_bytes, yaml12.read_file])
def test_what_is_no_ordinary_file_is_never_opened(read: object, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "zero").symlink_to("/dev/zero")
    for path, kind in ((pipe, "a pipe"), (tmp_path / "zero", "a device"), (tmp_path, "a folder")):
        with pytest.raises(DataError, match=f"it is {kind}, not an ordinary file"):
            read(path, error=DataError)  # type: ignore[operator]
    with pytest.raises(DataError, match=r"`.*gone` cannot be read: No such file or directory"):
        read(tmp_path / "gone", error=DataError)  # type: ignore[operator]


def test_names_that_no_file_can_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file can have this name"):
        documents.read_text(tmp_path / "a\0b", error=DataError)


def test_a_file_over_the_limit_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a terabyte of nothing
    with pytest.raises(DataError, match="larger than 16 MiB"):
        documents.read_json(path, error=DataError)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: " + "[" * 40 + "]" * 40, "f.yaml:1: it is nested more than 32 deep"),
        ("a: " + "[" * 100_000, "f.yaml:1: it is nested more than 32 deep"),
        ("\n".join(" " * depth + "a:" for depth in range(40)), "it is nested more than 32 deep"),
        ("a: " + "9" * 5000, "f.yaml:1: a number of 5000 digits"),
        ("a: !!timestamp nonsense", "f.yaml:1: `nonsense` is no"),
        ("a: " + "x" * yaml12.MAX_BYTES, "f.yaml: larger than 256 KiB"),
    ],
)
def test_yaml_has_limits_too(text: str, reason: str) -> None:
    started = time.monotonic()
    with pytest.raises(DataError) as caught:
        yaml12.read_document(text, source="f.yaml", error=DataError)
    assert reason in caught.value.message
    assert time.monotonic() - started < 20
