"""Lines of JSON that are written alike are read by a pattern, and as the careful way reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ttstrain import documents
from ttstrain.contract.table import RowTable
from ttstrain.data.readers import jsonl, read_rows
from ttstrain.data.readers.alike import Alike

FIRST = {"id": "a0", "audio": "clips/a0.wav", "text": "one two", "speaker": "x", "language": "EN", "duration": 1.5}
ODD: list[dict[str, Any] | str] = [
    {**FIRST, "text": 'a "quoted" word'},
    {**FIRST, "text": "tab\tand \\ and ü and \x7f"},
    {**FIRST, "text": ""},
    {**FIRST, "text": "  "},
    {**FIRST, "text": None},
    {**FIRST, "text": 5},
    {**FIRST, "id": ""},
    {**FIRST, "id": " a9 "},
    {**FIRST, "id": 7},
    {**FIRST, "speaker": " y "},
    {**FIRST, "speaker": 12},
    {**FIRST, "speaker": None},
    {**FIRST, "language": "jp"},
    {**FIRST, "language": "De "},
    {**FIRST, "audio": "clips/b1.wav"},
    {**FIRST, "audio": "clips/b1"},
    {**FIRST, "audio": "clips/../clips/b1.wav"},
    {**FIRST, "audio": "gone.wav"},
    {**FIRST, "audio": '"clips/b1.wav"'},
    {**FIRST, "audio": {"path": "clips/b1.wav"}},
    {**FIRST, "duration": 2},
    {**FIRST, "duration": "2.5"},
    {**FIRST, "duration": -1},
    {**FIRST, "duration": 0},
    {**FIRST, "duration": 1e-3},
    {**FIRST, "duration": True},
    {**FIRST, "duration": float("nan")},
    {**FIRST, "extra": 1},
    {key: FIRST[key] for key in reversed(FIRST)},
    {key: FIRST[key] for key in ("audio", "text")},
    {"Audio": "clips/b1.wav", "audio": "clips/a0.wav", "text": "two keys of one name"},
    {**FIRST, "text": "[" * 70 + "{" * 70},
    json.dumps(FIRST).replace(", ", ","),
    json.dumps(FIRST, ensure_ascii=True).replace(", ", " , "),
    json.dumps(FIRST).replace("1.5", "01.5"),
    json.dumps(FIRST).replace("1.5", "1" * 200),
    json.dumps(FIRST)[:-1] + ', "id": "twice"}',
    json.dumps(FIRST) + " ",
    json.dumps(FIRST) + "x",
    "[]",
    "nothing",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "clips").mkdir()
    for name in ("a0", "b1"):
        (tmp_path / "clips" / f"{name}.wav").touch()
    return tmp_path


def written(path: Path, rows: list[dict[str, Any] | str]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def read(path: Path, monkeypatch: pytest.MonkeyPatch, *, learned: int, at_once: int) -> RowTable:
    monkeypatch.setattr(jsonl, "MOST_LEARNED", learned)
    monkeypatch.setattr(jsonl, "CHARACTERS_AT_ONCE", at_once)
    return read_rows(path, "jsonl")


def check(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare lines read by a pattern, one or some at a time, with lines that are read with care."""
    with_care = read(path, monkeypatch, learned=0, at_once=10**6)
    for at_once in (1, 150, 400, 10**6):
        assert read(path, monkeypatch, learned=16, at_once=at_once) == with_care


@pytest.mark.parametrize(
    "first", [FIRST, {**FIRST, "extra": ""}, {**FIRST, "id": 3}, {"audio": "clips/a0.wav", "text": "t"}]
)
def test_odd_lines_are_read_as_without_a_pattern(
    folder: Path, monkeypatch: pytest.MonkeyPatch, first: dict[str, Any]
) -> None:
    rows = [first, *(one for odd in ODD for one in (first, odd, first))]
    path = written(folder / "rows.jsonl", rows)
    check(path, monkeypatch)


@pytest.mark.parametrize("odd", range(len(ODD)))
def test_an_odd_line_at_the_start_makes_no_wrong_pattern(
    folder: Path, monkeypatch: pytest.MonkeyPatch, odd: int
) -> None:
    if ODD[odd] == "[]":
        pytest.skip("a table that begins with a bracket is one list")
    path = written(folder / "rows.jsonl", [ODD[odd], *(row for row in ODD for row in (FIRST, row))])
    check(path, monkeypatch)


def test_of_many_lines_that_are_alike_few_are_read_with_care(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{**FIRST, "id": f"r{i}", "text": f"text {i}", "duration": 1 + i / 7, "extra": ""} for i in range(500)]
    path = written(folder / "rows.jsonl", [*rows])
    parsed: list[Any] = []
    parse = documents.parse
    monkeypatch.setattr(documents, "parse", lambda *given, **settings: parsed.append(1) or parse(*given, **settings))
    assert [row.id for row in read_rows(path).rows] == [row["id"] for row in rows]
    assert len(parsed) <= 4


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_whatever_ends_its_lines_a_table_is_read_many_lines_at_a_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    rows = [{**FIRST, "id": f"r{i}", "text": f"text\x85 {i}\u2028", "language": "jp"} for i in range(40)]
    path = folder / "rows.jsonl"
    path.write_bytes("".join(json.dumps(row, ensure_ascii=False) + end for row in rows).encode())
    with_care = read(path, monkeypatch, learned=0, at_once=10)
    alone: list[str] = []
    row = Alike.row
    monkeypatch.setattr(Alike, "row", lambda self, line, *given: alone.append(line) or row(self, line, *given))
    assert read(path, monkeypatch, learned=16, at_once=10) == with_care
    assert len(with_care.rows) == len(rows)
    assert len(alone) < 10  # of the first ten
