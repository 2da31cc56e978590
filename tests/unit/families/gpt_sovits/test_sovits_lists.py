"""Lists of GPT-SoVITS as its tools, other systems and editors leave them."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
from speech_toys import RATE, syllables

from ttstrain.data.readers import RowTable, TableError, read_rows

WORDS = "a sentence, with a comma"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    root.mkdir()
    for name in ("a.wav", "b.wav"):
        soundfile.write(root / name, syllables(1.0, seed=ord(name[0])), RATE)
    return root


def read(folder: Path, *lines: str, name: str = "v.list") -> RowTable:
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return read_rows(folder / name)


def found(table: RowTable) -> list[tuple[str, str, str]]:
    return [(row.id, row.language, row.text) for row in table.rows]


def findings(table: RowTable, action: str) -> list[tuple[str, str]]:
    return [(finding.row.source, finding.reason) for finding in table.findings if finding.action == action]


# ---------------------------------------------------------------- bars


@pytest.mark.parametrize("bar", "｜￨│∣")
def test_bars_that_only_look_like_one_are_read_and_said(folder: Path, bar: str) -> None:
    table = read(folder, bar.join(["a.wav", "ann", "EN", WORDS]), bar.join(["b.wav", "ann", "EN", "two"]))
    assert found(table) == [("a", "en", WORDS), ("b", "en", "two")]
    assert findings(table, "fix") == [("v.list:1", "bars"), ("v.list:2", "bars")]


def test_a_line_with_bars_of_both_kinds_is_read(folder: Path) -> None:
    table = read(folder, "a.wav|ann｜EN｜one", "b.wav|ann|EN|it says ｜ in the text")
    assert found(table) == [("a", "en", "one"), ("b", "en", "it says ｜ in the text")]
    assert findings(table, "fix") == [("v.list:1", "bars")]


@pytest.mark.parametrize("line", ["a,it says ｜ in the text", "a\tit says ｜ in the text", "a|it says ｜ in the text"])
def test_such_a_bar_in_a_text_stays(folder: Path, line: str) -> None:
    assert [row.text for row in read(folder, line, name="v.csv").rows] == ["it says ｜ in the text"]


# ---------------------------------------------------------------- paths


@pytest.mark.parametrize("quotes", ['""', "''", "“”"])
def test_quotes_round_a_path_are_taken_off_and_said(folder: Path, quotes: str) -> None:
    name = "a.wav".join(quotes)
    table = read(folder, f"{name}|ann|EN|one", "b.wav|ann|EN|two")
    assert found(table) == [("a", "en", "one"), ("b", "en", "two")]
    assert findings(table, "fix") == [("v.list:1", "quoted_path")]


def test_a_quoted_path_of_another_system_is_found_by_its_name(folder: Path) -> None:
    table = read(folder, '"D:\\voices\\old\\a.wav"|ann|EN|one')
    assert found(table) == [("a", "en", "one")]
    assert findings(table, "fix") == [("v.list:1", "quoted_path"), ("v.list:1", "moved_file")]


def test_a_file_that_is_really_called_so_is_taken(folder: Path) -> None:
    (folder / "a.wav").rename(folder / "'a.wav'")
    table = read(folder, "'a.wav'|ann|EN|one")
    assert [row.audio for row in table.rows] == [folder / "'a.wav'"]
    assert findings(table, "fix") == []


# ---------------------------------------------------------------- columns


def test_a_line_of_three_columns_is_told_which_four_are_expected(folder: Path) -> None:
    table = read(folder, f"a.wav|EN|{WORDS}", "b.wav|ann|EN|two")
    (finding,) = table.findings
    assert (finding.action, finding.reason) == ("skip", "column_count")
    assert finding.why == "3 columns where 4 are expected (path, speaker, language, text)"


def test_a_line_of_one_column_has_no_text(folder: Path) -> None:
    assert findings(read(folder, "a.wav", "b.wav|ann|EN|two"), "skip") == [("v.list:1", "no_text")]


# ---------------------------------------------------------------- upstream's output folder


@pytest.fixture
def output(folder: Path) -> Path:
    """What its slicer and its recogniser write on Windows, moved here."""
    slices = folder / "slicer_opt"
    slices.mkdir()
    for name in "ab":
        (folder / f"{name}.wav").rename(slices / f"v.wav_{name}.wav")
    (folder / "asr_opt").mkdir()
    lines = [f"D:\\out\\slicer_opt\\v.wav_{name}.wav|slicer_opt|EN|{name} {WORDS}\n" for name in "ab"]
    (folder / "asr_opt" / "slicer_opt.list").write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.mark.parametrize("named", [".", "asr_opt", "asr_opt/slicer_opt.list", "slicer_opt"])
def test_every_part_of_upstreams_output_stands_for_it(output: Path, named: str) -> None:
    table = read_rows(output / named)
    slices = (output / "slicer_opt").resolve()
    assert [row.audio.resolve() for row in table.rows if row.audio] == [slices / "v.wav_a.wav", slices / "v.wav_b.wav"]
    assert [row.text for row in table.rows] == [f"a {WORDS}", f"b {WORDS}"]
    assert {reason for _, reason in findings(table, "fix")} == {"moved_file"}


def test_recordings_are_found_in_the_folder_named_after_the_speaker_or_the_list(output: Path) -> None:
    (output / "slicer_opt").rename(output / "ann")
    lines = "".join(f"/elsewhere/old/v.wav_{name}.wav|ann|EN|{name}\n" for name in "ab")
    (output / "asr_opt" / "slicer_opt.list").write_text(lines, encoding="utf-8")
    assert len(read_rows(output / "asr_opt").rows) == 2
    (output / "ann").rename(output / "slicer_opt")
    assert len(read_rows(output / "asr_opt").rows) == 2


def test_a_speaker_that_is_a_path_leads_nowhere(output: Path) -> None:
    (output / "slicer_opt").rename(output.parent / "elsewhere")
    (output / "v.wav_a.wav").write_bytes((output.parent / "elsewhere" / "v.wav_a.wav").read_bytes())
    lines = "".join(f"/old/v.wav_a.wav|{speaker}|EN|one\n" for speaker in ("../../elsewhere", "..", "/elsewhere"))
    (output / "asr_opt" / "x.list").write_text(lines, encoding="utf-8")
    table = read_rows(output / "asr_opt" / "x.list")
    assert table.rows == []
    assert {reason for _, reason in findings(table, "skip")} == {"missing_file"}


def test_several_lists_ask_which(output: Path) -> None:
    (output / "asr_opt" / "more.list").write_text("x.wav|a|EN|one\n", encoding="utf-8")
    with pytest.raises(TableError, match="several tables"):
        read_rows(output)
