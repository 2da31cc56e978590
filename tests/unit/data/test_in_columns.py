"""Rows and clips in columns: all that is found of them is what is found of them one by one."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ttstrain import registry
from ttstrain.contract.data import Clip
from ttstrain.data import audit as audit_module
from ttstrain.data import in_columns, many_texts, texts
from ttstrain.data.audit import AuditResult, audit
from ttstrain.data.in_columns import ClipColumns, RowColumns, column, taken, together
from ttstrain.data.readers import jsonl, read_rows
from ttstrain.data.split import split_data
from ttstrain.data.transcript import clean, main_script, skeleton, spoken_seconds
from ttstrain.plan import facts as facts_module
from ttstrain.plan.facts import count_frames, gather_facts, report_texts
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose
from ttstrain.recipe.schema import DataConfig

TEXTS = [
    "One two three.", "one, two; three", "It is 12 o'clock, for $5 and 3 %.", "", " ", "...", "Schöne Grüße aus Köln",
    "SchÃ¶ne GrÃ¼Ãe", "今天天气很好,我们去公园。", "안녕하세요 여러분", "Добрый день",
    "a\u200bb\tc  d", "e\u0301te\u0301", "<b>bold</b> [Music]",
    "Anna: good morning", "x", "no \ufffd no", "👍 fine", "&amp; so on", "٣ أرقام", "straße", "İstanbul", "½ cup",
    "much too long for so short a sound, and then some more of it, and still it goes on and on",
]  # fmt: skip


def text_of(draw: random.Random) -> str:
    if draw.random() < 0.5:
        return " ".join(draw.choices(["ten", "or", "more", "words", "of", "it"], k=draw.randint(1, 12))) + "."
    return draw.choice(TEXTS)


def write_table(folder: Path, seed: int, *, prefix: str = "r", count: int = 60) -> Path:
    """Write odd rows among plain ones; every recording is a name only."""
    draw = random.Random(seed)
    (folder / "clips").mkdir(parents=True)
    lines = []
    for i in range(count):
        (folder / "clips" / f"{prefix}{i}.wav").touch()
        row: dict[str, Any] = {"id": f"{prefix}{i}", "audio": f"clips/{prefix}{i}.wav", "text": text_of(draw)}
        row |= {"speaker": draw.choice(["Anna", "Ben", ""]), "language": draw.choice(["en", "EN ", "jp", ""])}
        row["duration"] = draw.choice([0.9, 2.0, 2.5, 3.3333, 4.00002, 35.0, 0.2])
        if draw.random() < 0.1:
            row = draw.choice([{**row, "audio": "gone.wav"}, {**row, "text": None}, {**row, "extra": 1}])
        lines.append(json.dumps(row, ensure_ascii=draw.random() < 0.1) + "\n")
    path = folder / "rows.jsonl"
    path.write_text("".join(lines), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def _a_few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_module, "MANY_ROWS", 3)
    monkeypatch.setattr(jsonl, "CHARACTERS_AT_ONCE", 400)
    monkeypatch.setattr(many_texts, "AT_ONCE", 7)
    monkeypatch.setattr(texts, "TEXTS_AT_ONCE", 9)


def both(path: Path, *, language: str | None = None) -> tuple[AuditResult, AuditResult]:
    """Audit a table in columns and row by row."""
    config = DataConfig(cache_dir=str(path.parent / "cache"), language=language)
    table = read_rows(path)
    assert isinstance(table.rows, RowColumns)
    row_by_row = audit(replace(table, rows=list(table.rows)), config, lengths="given")
    assert isinstance(row_by_row.clips, list)
    in_columns = audit(table, config, lengths="given")
    assert isinstance(in_columns.clips, ClipColumns)
    return in_columns, row_by_row


@pytest.mark.parametrize("seed", range(25))
def test_rows_in_columns_are_audited_as_they_are_one_by_one(tmp_path: Path, seed: int) -> None:
    fast, plain = both(write_table(tmp_path, seed), language="de" if seed % 2 else None)
    assert fast == plain
    assert len({finding.reason for finding in plain.findings}) > 5


def test_a_recording_or_an_id_that_is_named_twice_is_looked_at_row_by_row(tmp_path: Path) -> None:
    path = write_table(tmp_path, 0)
    first = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
    for twice in ({**first, "text": "other words"}, {**first, "audio": "clips/other.wav"}):
        (tmp_path / "clips" / "other.wav").touch()
        path.write_text(path.read_text(encoding="utf-8") + json.dumps(twice) + "\n", encoding="utf-8")
        table = read_rows(path)
        config = DataConfig(cache_dir=str(tmp_path / "cache"))
        plain = audit(replace(table, rows=list(table.rows)), config, lengths="given")
        assert audit(table, config, lengths="given") == plain


@pytest.mark.parametrize("seed", range(4))
def test_facts_of_tables_in_columns_are_those_of_rows(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two tables, one of which is replayed."""
    own, replayed = (write_table(tmp_path / name, seed, prefix=name) for name in ("own", "old"))
    settings = [f"data.path={own}", f"data.cache_dir={tmp_path / 'cache'}", "data.batch_frames=700"]
    settings += [f"data.replay.path={replayed}"] if seed % 2 else []
    recipe = parse(compose("from_scratch", [*settings, "model.max_unknown=1"]))
    fast = gather_facts(recipe)
    monkeypatch.setattr(audit_module, "RowColumns", bytes)  # no table's rows are: they are audited one by one
    plain = gather_facts(recipe)
    assert fast == plain
    assert plain.texts is not None
    assert plain.num_holdout
    assert (plain.replay is not None) == bool(seed % 2)


@pytest.mark.parametrize("seed", range(4))
def test_clips_in_columns_are_split_measured_and_read_as_a_list_of_them(tmp_path: Path, seed: int) -> None:
    fast, plain = (result.clips for result in both(write_table(tmp_path, seed)))
    recipe = parse(compose("from_scratch", ["data.batch_frames=700", "data.holdout=5"]))
    splits = [split_data(clips, [], recipe.data, seed=seed) for clips in (fast, plain)]
    assert splits[0] == splits[1]
    assert isinstance(splits[0].train, ClipColumns)
    found = facts_module.Findings()
    assert count_frames(recipe, splits[0], findings=found) == count_frames(recipe, splits[1], findings=found)
    assert report_texts(recipe, fast) == report_texts(recipe, plain)
    planner = registry.planner_of(recipe)
    assert planner.lengths(fast) == planner.lengths(plain) == [planner.length(clip) for clip in plain]


def test_columns_hold_what_their_clips_have(tmp_path: Path) -> None:
    clips = both(write_table(tmp_path, 1))[0].clips
    for name in ("id", "text", "speaker", "language", "duration_s", "num_samples", "sample_rate", "digest", "tokens"):
        assert list(column(clips, name)) == [getattr(clip, name) for clip in clips] == column(list(clips), name)
    assert column(clips, "path") == [str(clip.path) for clip in clips]
    some = taken(clips, [4, 2])
    assert some == [clips[4], clips[2]]
    assert some == taken(list(clips), [4, 2])
    assert together(some, [], clips) == [*some, *clips]
    assert isinstance(together(some, clips), ClipColumns)
    other = Clip(id="o", path=Path("o.wav"), text="o", duration_s=1.0, sample_rate=8000)
    assert together(some, [other]) == [*some, other]
    assert together() == []
    assert clips[-1] == clips[len(clips) - 1]
    assert clips[1:3] == [clips[1], clips[2]]
    with pytest.raises(IndexError):
        clips[len(clips)]
    assert in_columns.RowColumns() == []


def test_many_texts_are_looked_at_as_single_ones() -> None:
    draw = random.Random(0)
    drawn = "ABz aé09 ,.;!?'\"-()[]<>&:*\\\u200b\u00a0\t\n$%一한👍ßİ½٣\u0301"
    some = ["".join(draw.choices(drawn, k=draw.randint(0, 14))) for _ in range(3000)]
    some += ["".join(draw.choices("Ab 1,.-'", k=draw.randint(0, 14))) for _ in range(3000)]
    cleaned, repaired = many_texts.clean_all(some)
    one_by_one = [clean(text) for text in some]
    assert cleaned == [one.text for one in one_by_one]
    assert repaired == {i: one for i, one in enumerate(one_by_one) if one.repairs}
    spoken = many_texts.said(some)
    assert list(zip(spoken.least, spoken.most, strict=True)) == [
        (one.least, one.most) for one in map(spoken_seconds, some)
    ]
    assert spoken.holds_digit.tolist() == [any(c.isdigit() for c in text) for text in some]
    assert many_texts.skeletons(some) == [skeleton(text) for text in some]
    assert many_texts.main_scripts(some) == [main_script(text) for text in some]
    assert len(many_texts.said([]).least) == 0
