"""Lengths that a large table gives, and texts and names that need no long look."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from speech_toys import text_for, write_ljspeech

from ttstrain.data import audit as audit_module
from ttstrain.data import transcript
from ttstrain.data.audit import AuditResult, audit
from ttstrain.data.readers import read_rows
from ttstrain.data.readers.locate import Locator
from ttstrain.recipe.schema import DataConfig

SECONDS = [1.0, 1.4, 2.0]
DRAWN = "ABz aé09 ,.;!?'\"-()[]<>&:*\\\u200b\u00a0\t$%一👍"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    folder = write_ljspeech(tmp_path / "set", SECONDS)
    rows = [
        {"audio": f"wavs/clip{i:02d}.wav", "text": text_for(seconds), "duration": seconds + 0.5}
        for i, seconds in enumerate(SECONDS)
    ]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def look(table: Path, lengths: str) -> AuditResult:
    config = DataConfig(cache_dir=str(table.parent.parent / "cache"))
    return audit(read_rows(table), config, lengths=lengths)  # type: ignore[arg-type]


def durations(result: AuditResult) -> list[float]:
    return [clip.duration_s for clip in result.clips]


def test_a_large_table_is_planned_by_its_own_lengths(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_module, "MANY_ROWS", 3)
    result = look(table, "given")
    assert durations(result) == [1.5, 1.9, 2.5]
    assert [clip.digest for clip in result.clips] == [""] * 3
    assert "duplicate_audio" not in result.count("accept")  # though no digest is known
    assert result.remarks[-1].text.startswith("of 3 clips as the table says")
    assert durations(look(table, "measured")) == SECONDS
    assert durations(look(table, "given")) == SECONDS  # measured by now


def test_a_small_table_is_measured(table: Path) -> None:
    assert durations(look(table, "given")) == SECONDS


@pytest.mark.parametrize("written", [None, "soon", 0, -3, True, [], 1e9])
def test_what_is_no_length_is_measured(table: Path, monkeypatch: pytest.MonkeyPatch, written: object) -> None:
    monkeypatch.setattr(audit_module, "MANY_ROWS", 3)
    rows = [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()]
    rows[1]["duration"] = written
    table.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert durations(look(table, "given")) == [1.5, 1.4, 2.5]


def test_lengths_of_a_csv_are_read(table: Path) -> None:
    csv = table.with_name("rows.csv")
    csv.write_text("file_name,text,duration\nwavs/clip00.wav,one two,3.25\n", encoding="utf-8")
    read = read_rows(csv)
    assert [row.seconds for row in read.rows] == [3.25]
    assert [(column.use, column.name) for column in read.columns][-1] == ("duration", "`duration`")


def test_plain_texts_are_cleaned_as_all_others_are() -> None:
    draw = random.Random(0)
    texts = ["".join(draw.choices(DRAWN, k=draw.randint(0, 12))) for _ in range(4000)]
    texts += ["".join(draw.choices("Ab 1,.-'", k=draw.randint(0, 12))) for _ in range(2000)]
    for text in texts:
        assert transcript.clean(text) == transcript._cleaned(text), text


def test_ascii_texts_are_counted_as_all_others_are() -> None:
    for number in range(128):
        for text in (chr(number), f"a{chr(number)}Z", f"é{chr(number)}"):
            counts = transcript._count(text)
            assert counts.letters == sum(c.isalpha() for c in text)
            assert counts.digits == sum(c in "0123456789$%" for c in text)
            assert transcript.skeleton(text) == "".join(c for c in text.casefold() if c.isalnum())
            assert transcript.main_script(text) == ("LATIN" if any(c.isalpha() for c in text) else "")


@pytest.mark.parametrize(
    "name", ["a/b.wav", "b.wav", "a/c.wav", "A/b.wav", "a/b.WAV", "a", "a/../a/b.wav", "link/b.wav"]
)
def test_plain_names_are_found_as_all_others_are(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.wav").touch()
    (tmp_path / "link").symlink_to("a")
    locator = Locator(tmp_path)
    slowly = locator._find(name)
    assert locator.find(name) == slowly
    assert locator.find(name) == slowly  # the folder is known by now


@pytest.mark.parametrize("seconds", [[1.5, 1.9, 2.5], [1.5, 0, 2.5]])
@pytest.mark.parametrize("named_twice", [False, True])
def test_a_large_table_is_checked_as_a_small_one(
    table: Path, monkeypatch: pytest.MonkeyPatch, seconds: list[float], named_twice: bool
) -> None:
    """The table gives all lengths at once, or some, or the lengths of a recording that it names twice."""
    rows = [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()]
    rows = [{**row, "duration": written} for row, written in zip(rows, seconds, strict=True)]
    rows += [{**rows[0], "duration": 9.0}] if named_twice else []
    table.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    monkeypatch.setattr(audit_module, "MANY_ROWS", 3)
    looked_up = [_checked(look(table, "given"))]
    monkeypatch.setattr(audit_module, "_all_given", lambda rows: False)
    looked_up.append(_checked(look(table, "given")))
    assert looked_up[0] == looked_up[1]


def _checked(result: AuditResult) -> AuditResult:
    kept = next(iter((result.root.parent / "cache").rglob("audit/*.jsonl")), None)
    if kept is not None:
        kept.unlink()
    return result
