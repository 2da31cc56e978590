"""Data that F5-TTS's tools prepared are read with the texts they were made of, and what got lost is said."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile
from small_runs import write_clips

from ttstrain.data.audit import audit
from ttstrain.data.manifest import read_manifest, write_manifest
from ttstrain.data.readers import TableError, read_rows
from ttstrain.errors import DataError
from ttstrain.recipe.schema import DataConfig

pyarrow = pytest.importorskip("pyarrow")
COUNT = 5


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project as the web tool leaves it: recordings in wavs, prepared table, counts and vocab beside."""
    folder = write_clips(tmp_path / "data" / "voice_pinyin", count=COUNT)
    rows = [line.split("|") for line in (folder / "metadata.csv").read_text().splitlines()]
    (folder / "metadata.csv").unlink()
    write_arrow(folder, [{"audio_path": str(folder / "wavs" / f"{name}.wav"), "text": list(t)} for name, t in rows])
    (folder / "vocab.txt").write_text(" \na\n")
    return folder


def write_arrow(
    folder: Path, rows: list[dict[str, Any]], *, name: str = "raw.arrow", counted: int | None = None
) -> None:
    for row in rows:
        path = Path(row["audio_path"])
        row["duration"] = soundfile.info(path).duration if path.exists() else 1.0
    table = pyarrow.Table.from_pylist(rows)
    (folder / name).parent.mkdir(exist_ok=True)
    with pyarrow.OSFile(str(folder / name), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
        for batch in table.to_batches(max_chunksize=2):
            writer.write_batch(batch)
    durations = [row["duration"] for row in rows] + [1.0] * ((counted or len(rows)) - len(rows))
    (folder / "duration.json").write_text(json.dumps({"duration": durations}))


def stored(folder: Path) -> list[dict[str, Any]]:
    with pyarrow.ipc.open_stream(folder / "raw.arrow") as stream:
        rows: list[dict[str, Any]] = stream.read_all().to_pylist()
    return rows


def test_letters_become_texts_again(project: Path) -> None:
    table = read_rows(project)
    assert table.format == "f5_project"
    assert [row.text for row in table.rows] == ["".join(row["text"]) for row in stored(project)]
    assert all(row.audio is not None and row.audio.is_file() and not row.tokens for row in table.rows)
    assert table.findings == []


def test_the_table_it_was_made_from_has_the_better_texts(project: Path) -> None:
    """Spaces that the front end put in, and pinyin, stay out of what a person wrote."""
    names = [Path(row["audio_path"]).name for row in stored(project)]
    (project / "metadata.csv").write_text("".join(f"{name}|Größer {i}\n" for i, name in enumerate(names)))
    assert [row.text for row in read_rows(project).rows] == [f"Größer {i}" for i in range(COUNT)]


def test_pinyin_without_its_text_is_kept_as_tokens(project: Path, tmp_path: Path) -> None:
    rows = stored(project)
    rows[0]["text"] = [" ", "ni2", " ", "hao3"]
    write_arrow(project, rows)
    clips = audit(read_rows(project), DataConfig(path=str(project))).clips
    assert clips[0].tokens == (" ", "ni2", " ", "hao3")
    assert [clip.tokens for clip in clips[1:]] == [()] * (COUNT - 1)
    write_manifest(tmp_path / "m.jsonl", clips)
    assert read_manifest(tmp_path / "m.jsonl") == clips


def test_rows_that_the_counts_promise_and_the_table_lacks_are_said(project: Path) -> None:
    write_arrow(project, stored(project), counted=COUNT + 2)
    lost = [finding for finding in read_rows(project).findings if finding.reason == "lost_row"]
    assert [finding.action for finding in lost] == ["skip"] * 2
    assert f"counts {COUNT + 2} rows, the table has {COUNT}" in lost[0].why


def test_more_rows_than_counted_are_a_remark(project: Path) -> None:
    (project / "duration.json").write_text(json.dumps({"duration": [1.0]}))
    (finding,) = read_rows(project).findings
    assert (finding.action, finding.reason) == ("accept", "row_count")
    (project / "duration.json").write_text("{}")
    (finding,) = read_rows(project).findings
    assert "no list of durations" in finding.why


def test_a_table_cut_short_gives_what_it_holds(project: Path) -> None:
    content = (project / "raw.arrow").read_bytes()
    (project / "raw.arrow").write_bytes(content[: len(content) * 3 // 5])
    table = read_rows(project)
    assert 0 < len(table.rows) < COUNT
    lost = [finding.why for finding in table.findings if finding.reason == "lost_row"]
    assert len(lost) == COUNT - len(table.rows)
    (project / "raw.arrow").write_bytes(content[:100])
    with pytest.raises(TableError, match="cannot be read"):
        read_rows(project)


def test_recordings_are_found_after_a_move(project: Path, tmp_path: Path) -> None:
    moved = Path(shutil.move(project, tmp_path / "elsewhere"))
    table = read_rows(moved)
    assert [row.audio.parent for row in table.rows if row.audio] == [moved / "wavs"] * COUNT
    assert {finding.reason for finding in table.findings} == {"moved_file"}


def test_a_saved_data_set_is_read_too(project: Path) -> None:
    """`datasets.save_to_disk` writes a folder of tables."""
    rows = stored(project)
    (project / "raw.arrow").unlink()
    write_arrow(project, rows, name="raw/data-00000-of-00001.arrow")
    assert len(read_rows(project).rows) == COUNT


def test_sets_of_mels_are_refused(project: Path) -> None:
    table = pyarrow.table({"mel_spec": [[0.0]], "text": ["a"]})
    with pyarrow.OSFile(str(project / "raw.arrow"), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(TableError, match="no column audio_path"):
        read_rows(project)


def test_without_pyarrow_it_says_what_to_install(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match="needs pyarrow") as caught:
        read_rows(project)
    assert "ttstrain[parquet]" in str(caught.value.hint)


def test_a_folder_can_be_said_to_be_a_project(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"neither `raw\.arrow` nor"):
        read_rows(tmp_path, "f5_project")
