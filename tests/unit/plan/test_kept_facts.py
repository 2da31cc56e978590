from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from ttstrain.data import audit
from ttstrain.plan import facts as facts_module
from ttstrain.plan import kept_facts
from ttstrain.plan.facts import gather_facts
from ttstrain.plan.plan import DataFacts
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose
from ttstrain.recipe.schema import Recipe

DEMO = Path(facts_module.__file__).parents[1] / "_demo"


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(kept_facts, "MANY", 3)
    monkeypatch.setattr(audit, "MANY_ROWS", 3)
    rows = [json.loads(line) for line in (DEMO / "metadata.jsonl").read_text(encoding="utf-8").splitlines()][:4]
    (tmp_path / "clips").mkdir()
    for row in rows:
        (tmp_path / row["audio"]).write_bytes((DEMO / row["audio"]).read_bytes())
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({**row, "duration": 4.0}) + "\n" for row in rows), encoding="utf-8")
    return path


def recipe(table: Path, *overrides: str) -> Recipe:
    cache = table.parent / "cache"
    return parse(compose("from_scratch", [f"data.path={table}", f"data.cache_dir={cache}", *overrides]))


def gathered(wanted: Recipe, monkeypatch: pytest.MonkeyPatch) -> tuple[DataFacts, bool]:
    """Return the facts, and whether the data were looked at for them."""
    looks: list[object] = []
    look = facts_module.audit_data
    with monkeypatch.context() as patch:
        patch.setattr(facts_module, "audit_data", lambda *a, **k: looks.append(a) or look(*a, **k))
        return gather_facts(wanted), bool(looks)


def test_facts_of_a_large_set_are_kept(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = recipe(table)
    first, looked = gathered(wanted, monkeypatch)
    assert looked
    assert gathered(wanted, monkeypatch) == (first, False)
    monkeypatch.setattr(kept_facts, "MANY", 100)
    assert gathered(recipe(table, "data.batch_frames=700"), monkeypatch)[1]
    assert gathered(recipe(table, "data.batch_frames=700"), monkeypatch)[1]  # of a small set nothing is kept


def test_facts_are_gathered_again_when_what_they_depend_on_changes(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = recipe(table)
    gathered(wanted, monkeypatch)
    assert gathered(recipe(table, "data.batch_frames=700"), monkeypatch)[1]
    assert gathered(recipe(table, "train.seed=7"), monkeypatch)[1]
    (table.parent / "clips" / "new.ogg").write_bytes(b"")
    assert gathered(wanted, monkeypatch)[1]
    assert not gathered(wanted, monkeypatch)[1]
    lines = table.read_text(encoding="utf-8").splitlines()[:3]
    table.write_text("\n".join(lines), encoding="utf-8")
    assert gathered(wanted, monkeypatch)[0].num_clips + 1 == 3  # one is held out


def test_a_measured_recording_that_changed_is_measured_again(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = recipe(table)
    facts_module.audit_data(wanted)
    before, looked = gathered(wanted, monkeypatch)
    assert looked
    assert not gathered(wanted, monkeypatch)[1]
    changed = sorted((table.parent / "clips").iterdir())
    folder = changed[0].parent.stat()
    changed[0].write_bytes(changed[1].read_bytes())
    os.utime(changed[0].parent, ns=(folder.st_atime_ns, folder.st_mtime_ns))
    after, looked = gathered(wanted, monkeypatch)
    assert looked
    assert after.frames != before.frames or after.num_clips != before.num_clips


@pytest.mark.parametrize("damage", [b"", b"{}", b"0\n{}"])
def test_damaged_facts_are_gathered_again(table: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes) -> None:
    wanted = recipe(table)
    first, _ = gathered(wanted, monkeypatch)
    (kept,) = (table.parent / "cache" / "plans").iterdir()
    whole = kept.read_bytes()
    for content in (damage, whole[:-1], whole.replace(b'"num_clips": 3', b'"num_clips": 4')):
        kept.write_bytes(content)
        assert gathered(wanted, monkeypatch) == (first, True)


def test_pairs_of_words_come_back(table: Path) -> None:
    wanted = recipe(table)
    made = gather_facts(wanted)
    assert made.texts is not None
    texts = replace(made.texts, split={("a,b", "a b"): 2})
    values = json.loads(json.dumps(kept_facts._values(replace(made, texts=texts))))
    assert kept_facts._facts(values) == replace(made, texts=texts)
