from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from ttstrain.data.readers import read_rows
from ttstrain.errors import DataError
from ttstrain.recordings.clips import CutClip, read_clips, write_clips
from ttstrain.recordings.review import Correction, corrected, page, read_corrections, write_page

EVIL = '</script><img src=x onerror="alert(1)"> & "quoted", said\u2028he'
CLIPS = [
    CutClip(id="a-0001", file="clips/a b-0001.wav", source="/r/a.wav", start=0, end=16_000, sample_rate=16_000,
            text=EVIL, origin="text file", fit=0.5, loudness=-20.5,
            notes=("only 50% of its words were heard as written",)),
    CutClip(id="a-0002", file="clips/a-0002.wav", source="/r/a.wav", start=16_000, end=40_000, sample_rate=16_000,
            text="a draft", origin="draft", speaker="anna"),
    CutClip(id="a-0003", file="clips/a-0003.wav", source="/r/a.wav", start=40_000, end=80_000, sample_rate=16_000),
]  # fmt: skip


def table(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(["id,action,speaker,text", *lines, ""]), encoding="utf-8")
    return path


def test_clips_are_read_as_they_were_written(tmp_path: Path) -> None:
    write_clips(tmp_path, CLIPS)
    assert read_clips(tmp_path) == CLIPS


def test_the_table_holds_what_is_trained_on_and_no_draft(tmp_path: Path) -> None:
    write_clips(tmp_path, [*CLIPS, replace(CLIPS[0], id="a-0004", dropped=True)])
    (tmp_path / "clips").mkdir()
    for clip in CLIPS:
        (tmp_path / clip.file).write_bytes(b"")
    rows = read_rows(tmp_path).rows
    assert [(row.audio, row.text) for row in rows] == [(tmp_path / "clips/a b-0001.wav", EVIL)]


def test_nothing_in_a_text_or_a_name_becomes_part_of_the_page() -> None:
    shown = page(CLIPS, title="<b>x</b>", command="ttstrain '<i>'")
    assert "<img" not in shown
    assert "<b>" not in shown
    assert "<i>" not in shown
    data = re.search(r'<script type="application/json" id="clips">(.*?)</script>', shown, re.DOTALL)
    assert data is not None
    clips = json.loads(data[1])
    assert [clip["text"] for clip in clips] == [EVIL, "a draft", ""]
    assert clips[0]["file"] == "clips/a%20b-0001.wav"


def test_the_page_asks_for_nothing_from_elsewhere() -> None:
    shown = page(CLIPS, title="x", command="y")
    assert not re.search(r"https?:|//[a-z]+\.|@import|\burl\(", shown)
    assert "default-src 'none'" in shown


def test_corrections_are_applied_and_a_kept_draft_is_a_text(tmp_path: Path) -> None:
    saved = table(
        tmp_path / "review.csv", 'a-0001,drop,"",""', 'a-0002,keep,"berta","a ""better"" draft"', 'a-0003,keep,"",""'
    )
    one, two, three = corrected(CLIPS, read_corrections(saved))
    assert one.dropped
    assert (two.speaker, two.text, two.origin, two.is_used) == ("berta", 'a "better" draft', "review", True)
    assert three == CLIPS[2]


def test_a_draft_that_is_kept_as_it_is_counts_as_seen(tmp_path: Path) -> None:
    saved = table(tmp_path / "review.csv", "a-0002,keep,anna,a draft")
    assert corrected(CLIPS, read_corrections(saved))[1].is_used


def test_a_spreadsheet_may_have_written_the_table_again(tmp_path: Path) -> None:
    path = tmp_path / "review.csv"
    path.write_bytes('\ufeffID;Action;Speaker;Text\r\na-0003;Keep;;"Guten; Tag"\r\n'.encode())
    assert read_corrections(path) == {"a-0003": Correction(False, "", "Guten; Tag")}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["a-0001,maybe,,x"], "line 2: `maybe` is neither"),
        (["a-0001,keep,,x", "a-0001,keep,,y"], "line 3: `a-0001` stands there twice"),
        (["a-0001,keep,x"], "line 2 has 3 columns"),
        (["b-0001,keep,,x"], "`b-0001`, which is not there"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path: Path, lines: list[str], said: str) -> None:
    with pytest.raises(DataError, match=re.escape(said)):
        corrected(CLIPS, read_corrections(table(tmp_path / "review.csv", *lines)))


def test_another_file_is_no_table_of_corrections(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("file_name,text\na,b\n", encoding="utf-8")
    with pytest.raises(DataError, match="no column `id`"):
        read_corrections(path)
    path.write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="no column `id`"):
        read_corrections(path)
    with pytest.raises(DataError, match=r"holds no `clips\.jsonl`"):
        read_clips(tmp_path)


def test_a_folder_whose_name_is_no_unicode_has_a_page(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"cut-\xff")
    folder.mkdir()
    assert "Review of cut-" in write_page(folder, CLIPS, command="x").read_text(encoding="utf-8")


def test_a_folder_without_a_clip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clips.jsonl").touch()
    with pytest.raises(DataError, match="holds no clip"):
        read_clips(tmp_path)
