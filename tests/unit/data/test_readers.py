from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
import soundfile
from speech_toys import RATE, syllables

from ttstrain.contract.table import RowTable
from ttstrain.data import shards
from ttstrain.data.audit import audit
from ttstrain.data.readers import parquet as parquet_reader
from ttstrain.data.readers import read_rows
from ttstrain.data.readers.rows import TableError
from ttstrain.data.readers.samples import wav_of
from ttstrain.digest import sha256
from ttstrain.errors import DataError
from ttstrain.recipe.schema import DataConfig


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    (root / "wavs").mkdir(parents=True)
    for name in "abc":
        soundfile.write(root / "wavs" / f"{name}.wav", syllables(1.0, seed=ord(name)), RATE)
    return root


def read(folder: Path, content: str | bytes, name: str = "metadata.csv", **options: Any) -> RowTable:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return read_rows(folder, **options)


def texts(table: RowTable) -> dict[str, str]:
    return {row.id: row.text for row in table.rows}


def skips(table: RowTable) -> list[tuple[str, str]]:
    return [(finding.row.source, finding.reason) for finding in table.findings if finding.action == "skip"]


# ---------------------------------------------------------------- LJSpeech


def test_the_normalised_column_is_preferred_when_it_says_something(folder: Path) -> None:
    table = read(folder, "a|Dr. A|Doctor A\nb|B|\nc|C\n")
    assert table.format == "ljspeech"
    assert texts(table) == {"a": "Doctor A", "b": "B", "c": "C"}
    assert [row.source for row in table.rows] == ["metadata.csv:1", "metadata.csv:2", "metadata.csv:3"]


def test_every_character_but_the_separator_is_text(folder: Path) -> None:
    written = {"a": '"an opening quote, that never closes', "b": "\x0bform\u2028feeds\x85and\\", "c": "it's ''odd''\""}
    assert texts(read(folder, "".join(f"{name}|{text}\n" for name, text in written.items()))) == written


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_line_ends_and_marks_of_every_system(end: str, encoding: str, folder: Path) -> None:
    table = read(folder, end.join(["a|größe", "", "b|two"]).encode(encoding))
    assert texts(table) == {"a": "größe", "b": "two"}


# ---------------------------------------------------------------- quotes


QUOTED = """audio_file|text
wavs/a.wav|"He said ""hold it"" twice."
wavs/b.wav|"a jar | of buttons"
wavs/c.wav|"along the harbour
and home"
"""


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("separator", ["|", "\t"])
def test_quoting_as_a_csv_writer_writes_it_is_undone_and_said(separator: str, end: str, folder: Path) -> None:
    table = read(folder, QUOTED.replace("|", separator).replace("\n", end))
    found = {name: " ".join(text.split()) for name, text in texts(table).items()}
    assert found == {
        "a": 'He said "hold it" twice.',
        "b": f"a jar {separator} of buttons".replace("\t", "").replace("  ", " "),
        "c": "along the harbour and home",
    }
    assert [v.reason for v in table.findings if v.action == "fix"] == ["csv_quotes"] * 3
    assert [row.source for row in table.rows] == ["metadata.csv:2", "metadata.csv:3", "metadata.csv:4"]


def test_quotes_round_every_field_are_undone(folder: Path) -> None:
    table = read(folder, '"audio_file"|"text"\n"wavs/a.wav"|"one"\n"wavs/b.wav"|"two"\n')
    assert texts(table) == {"a": "one", "b": "two"}


@pytest.mark.parametrize(
    "rows",
    [
        {"a": '"Whole sentences stand in quotes."', "b": "Others do not."},
        {"a": '"It begins here', "b": 'and ends here."'},
        {"a": '"It begins,', "b": 'goes "on" here', "c": 'and ends."'},
        {"a": '"Stop," he said, "no."', "b": 'a 15" screen', "c": "none"},
        {"a": '"One." Two. "Three."', "b": '"Four."', "c": "five"},
    ],
)
def test_quotation_marks_of_the_texts_are_texts(rows: dict[str, str], folder: Path) -> None:
    table = read(folder, "".join(f"{name}|{text}\n" for name, text in rows.items()))
    assert texts(table) == rows
    assert table.findings == []


def test_one_field_of_csv_among_plain_ones_is_read_as_csv(folder: Path) -> None:
    table = read(folder, 'a|"He said ""no"" twice."\nb|"Yes," she said.\nc|"Never."\n')
    assert texts(table) == {"a": 'He said "no" twice.', "b": '"Yes," she said.', "c": '"Never."'}


# ---------------------------------------------------------------- columns


def test_a_text_that_holds_the_separator_is_left_out(folder: Path) -> None:
    table = read(folder, "a|one thing\nb|hold the ladder | while I look\nc|another\n")
    assert texts(table) == {"a": "one thing", "c": "another"}
    assert skips(table) == [("metadata.csv:2", "column_count")]
    assert [finding.row.audio for finding in table.findings] == [folder / "wavs/b.wav"]


def test_a_bar_in_most_texts_of_a_table_with_tabs_is_a_part_of_them(folder: Path) -> None:
    table = read(folder, "a\tone | two\nb\tthree | four\nc\tfive\n")
    assert texts(table) == {"a": "one | two", "b": "three | four", "c": "five"}


@pytest.mark.parametrize("header", ["", "audio_file|text\n"])
def test_a_separator_at_the_end_makes_no_column(header: str, folder: Path) -> None:
    table = read(folder, f"{header}wavs/a.wav|one|\nwavs/b.wav|two||\n")
    assert list(texts(table).values()) == ["one", "two"]
    assert [v for v in table.findings if v.reason != "header_row"] == []


def test_a_third_column_that_is_no_spelling_out_is_refused(folder: Path) -> None:
    rows = "".join(f"a|the kettle began to sing, number {i}|speaking calmly and softly\n" for i in range(5))
    with pytest.raises(TableError, match="third column") as refusal:
        read(folder, rows)
    assert refusal.value.reason == "columns"
    assert texts(read(folder, "id|text|normalized_text\n" + rows[: rows.index("\n")]))["a"].startswith("speaking")
    assert texts(read(folder, "id|text|style\n" + rows[: rows.index("\n")]))["a"].startswith("the kettle")


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("On 12.3.1999 at 5 pm.", "On the twelfth of march nineteen ninety nine at five pm."),
        ("1465", "fourteen sixty-five"),
        ("价格是15元", "价格是十五元"),
        ("Größe", "größe"),
    ],
)
def test_texts_spelled_out_are_taken(text: str, normalised: str, folder: Path) -> None:
    table = read(folder, f"a|{text}|{normalised}\n" * 5)
    assert set(texts(table).values()) == {normalised}


def test_what_was_read_as_what_is_kept_with_examples(folder: Path) -> None:
    table = read(folder, "audio_file|mood|text|speaker\nwavs/a.wav||one|ann\nwavs/b.wav|sad|two|ann\n")
    assert [(column.use, column.name, column.example) for column in table.columns] == [
        ("file", "`audio_file`", "wavs/a.wav"),
        ("", "`mood`", "sad"),
        ("text", "`text`", "one"),
        ("speaker", "`speaker`", "ann"),
    ]
    table = read(folder, '{"Audio": "wavs/a.wav", "text": "one", "source": "ann"}\n', "metadata.jsonl")
    assert [(column.use, column.name) for column in read_rows(folder / "metadata.jsonl").columns] == [
        ("file", "`Audio`"),
        ("text", "`text`"),
        ("", "`source`"),
    ]


def test_lines_keep_their_numbers_over_blanks_and_comments(folder: Path) -> None:
    table = read(folder, "\n# a comment\na|one\n\nb\nc|x|y|z\n")
    assert [row.source for row in table.rows] == ["metadata.csv:3"]
    assert skips(table) == [("metadata.csv:5", "no_text"), ("metadata.csv:6", "column_count")]


def test_a_named_header_says_which_column_is_which(folder: Path) -> None:
    table = read(folder, "speaker|transcript|id|lang\nann|one|a|EN\nbob|two|b|DE\n")
    assert [(r.id, r.text, r.speaker, r.language) for r in table.rows] == [
        ("a", "one", "ann", "en"),
        ("b", "two", "bob", "de"),
    ]
    assert [(v.action, v.reason) for v in table.findings] == [("fix", "header_row")]


def test_commas_are_read_by_the_rules_of_csv_and_said(folder: Path) -> None:
    table = read(folder, 'a,"one, ""two"""\nb,"three\nfour"\nc,five, six\n')
    assert texts(table) == {"a": 'one, "two"', "b": "three\nfour"}
    assert [row.source for row in table.rows] == ["metadata.csv:1", "metadata.csv:2"]
    assert skips(table) == [("metadata.csv:4", "column_count")]
    assert "delimiter" in {finding.reason for finding in table.findings}


def test_a_quote_that_never_closes_is_refused_in_csv(folder: Path) -> None:
    with pytest.raises(TableError, match="line 2 breaks the rules of csv"):
        read(folder, 'a,one\nb,"two\nc,three\n')


def test_a_column_of_speakers_is_not_taken_for_text(folder: Path) -> None:
    rows = "".join(f"a|a sentence of some length, number {i}|ann\n" for i in range(5))
    with pytest.raises(TableError, match="third column") as refusal:
        read(folder, rows)
    assert refusal.value.reason == "columns"


# ---------------------------------------------------------------- tables that name files


def test_f5_csv_by_its_header_with_absolute_paths(folder: Path) -> None:
    table = read(folder, f'audio_file|text\n{folder}/wavs/a.wav|"one\nwavs/b.wav|two\n{folder}/wavs/x.wav|three\n')
    assert table.format == "f5_csv"
    assert texts(table) == {"a": '"one', "b": "two"}
    assert skips(table) == [("metadata.csv:4", "missing_file")]
    assert {row.audio for row in table.rows} == {folder / "wavs/a.wav", folder / "wavs/b.wav"}


def test_gpt_sovits_list_with_speakers_and_languages(folder: Path) -> None:
    lines = f"{folder}/wavs/a.wav|ann|ZH|你好\nD:\\old\\b.wav|bob|JP|はい\nwavs/c.wav|x|EN|too|many\n"
    table = read(folder, lines, "train.list")
    assert table.format == "gpt_sovits_list"
    assert [(r.id, r.speaker, r.language, r.text) for r in table.rows] == [
        ("a", "ann", "zh", "你好"),
        ("b", "bob", "ja", "はい"),
    ]
    assert skips(table) == [("train.list:3", "column_count")]
    assert [v.reason for v in table.findings if v.action == "fix"] == ["moved_file"]


def test_a_list_is_told_by_content_whatever_its_name(folder: Path) -> None:
    assert read(folder, "wavs/a.wav|ann|en|one\nwavs/b.wav|ann|en|two\n").format == "gpt_sovits_list"


@pytest.mark.parametrize("name", ["metadata.jsonl", "train.jsonl", "metadata.csv"])
@pytest.mark.parametrize(
    ("audio_key", "text_key"),
    [("audio", "text"), ("path", "transcript"), ("file", "sentence"), ("audio_filepath", "text")],
)
def test_jsonl_by_any_usual_key(name: str, audio_key: str, text_key: str, folder: Path) -> None:
    rows = [{audio_key: f"wavs/{n}.wav", text_key: f"say {n}", "speaker": "ann", "duration": 1.0} for n in "ab"]
    table = read(folder, "\n".join(map(json.dumps, rows)), name)
    assert table.format == "jsonl"
    assert texts(table) == {"a": "say a", "b": "say b"}
    assert table.rows[0].speaker == "ann"


def test_jsonl_rows_that_are_no_objects_are_named(folder: Path) -> None:
    lines = ['{"audio": "wavs/a.wav", "text": "one"}', "{broken", "[1]", '{"audio": 3, "text": "x"}', '{"text": "x"}']
    table = read(folder, "\n".join(lines), "metadata.jsonl")
    assert texts(table) == {"a": "one"}
    assert skips(table) == [
        ("metadata.jsonl:2", "bad_row"),
        ("metadata.jsonl:3", "bad_row"),
        ("metadata.jsonl:4", "bad_row"),
        ("metadata.jsonl:5", "missing_file"),
    ]


def test_jsonl_without_any_known_key_is_refused(folder: Path) -> None:
    with pytest.raises(TableError, match="it has sound, words"):
        read(folder, '{"sound": "wavs/a.wav", "words": "x"}\n', "metadata.jsonl")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.csv", 'file_name,transcription\nwavs/a.wav,"one, two"\n../b.wav,x\n'),
        ("metadata.jsonl", '{"file_name": "wavs/a.wav", "text": "one, two"}\n{"file_name": "../b.wav", "text": "x"}\n'),
    ],
)
def test_audiofolder_may_not_leave_its_folder(name: str, content: str, folder: Path) -> None:
    soundfile.write(folder.parent / "b.wav", syllables(1.0), RATE)
    table = read(folder, content, name)
    assert table.format == "audiofolder"
    assert texts(table) == {"a": "one, two"}
    assert [reason for _, reason in skips(table)] == ["outside_folder"]


def test_common_voice_table_by_its_header(folder: Path) -> None:
    (folder / "wavs").rename(folder / "clips")
    table = read(folder, "client_id\tpath\tsentence\tlocale\nann\ta.wav\tone\ten\n", "validated.tsv")
    assert [(r.id, r.text, r.speaker, r.language) for r in table.rows] == [("a", "one", "ann", "en")]


def test_files_of_one_name_in_two_folders_keep_apart(folder: Path) -> None:
    (folder / "other").mkdir()
    soundfile.write(folder / "other/a.wav", syllables(1.0), RATE)
    table = read(folder, "audio_file|text\nwavs/a.wav|one\nother/a.wav|two\n")
    assert texts(table) == {"wavs/a": "one", "other/a": "two"}


def test_as_many_folders_as_it_takes_tell_files_of_one_name_apart(folder: Path) -> None:
    rows = []
    for place in ("ada/wavs", "tom/wavs", "tom/more"):
        (folder / place).mkdir(parents=True)
        soundfile.write(folder / place / "0001.wav", syllables(1.0, seed=len(rows)), RATE)
        rows.append(f"{place}/0001.wav|text {len(rows)}\n")
    table = read(folder, "audio_file|text\n" + "".join(rows))
    assert texts(table) == {"ada/wavs/0001": "text 0", "tom/wavs/0001": "text 1", "tom/more/0001": "text 2"}
    table = read(folder, "audio_file|text\n" + "".join(rows[1:]))
    assert texts(table) == {"wavs/0001": "text 1", "more/0001": "text 2"}


def test_one_id_for_two_files_gets_their_names_behind(folder: Path) -> None:
    table = read(folder, "id|audio_file|text\nx|wavs/a.wav|one\nx|wavs/b.wav|two\nwavs/x|wavs/c.wav|three\n")
    assert texts(table) == {"x/a": "one", "x/b": "two", "wavs/x": "three"}


# ---------------------------------------------------------------- without a table


def test_recordings_with_a_text_beside_each(folder: Path) -> None:
    (folder / "wavs/a.txt").write_text("one\nmore\n", encoding="utf-8-sig")
    (folder / "wavs/b.normalized.txt").write_text("two")
    (folder / "wavs/b.txt").write_text("2")
    (folder / "wavs/again").symlink_to("..")
    table = read_rows(folder)
    assert table.format == "wav_txt"
    assert {name: text.strip() for name, text in texts(table).items()} == {"wavs/a": "one more", "wavs/b": "two"}


def test_parquet_with_recordings_inside(folder: Path, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    contents = [(folder / f"wavs/{name}.wav").read_bytes() for name in "ab"]
    rows = [{"bytes": content, "path": f"{i}.wav"} for i, content in enumerate(contents)]
    table = pyarrow.table({"audio": [*rows, {"bytes": None, "path": "../x"}], "text": ["one", "two", "three"]})
    (tmp_path / "hf/data").mkdir(parents=True)
    parquet.write_table(table, tmp_path / "hf/data/train-00000.parquet")
    read = read_rows(tmp_path / "hf", cache_dir=str(tmp_path / "cache"))
    assert read.format == "parquet"
    assert texts(read) == {"0": "one", "1": "two"}
    assert [row.audio.read_bytes() for row in read.rows if row.audio] == contents
    assert all(row.audio and row.audio.is_relative_to(tmp_path / "cache") for row in read.rows)
    assert skips(read) == [("train-00000.parquet:3", "outside_folder")]


def parquet(folder: Path, columns: dict[str, Any]) -> RowTable:
    pyarrow = pytest.importorskip("pyarrow")
    writer = pytest.importorskip("pyarrow.parquet")
    writer.write_table(pyarrow.table(columns), folder / "train.parquet")
    return read_rows(folder / "train.parquet", cache_dir=str(folder.parent / "cache"))


def test_recordings_of_a_large_parquet_table_lie_in_one_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_reader, "MANY_ROWS", 3)
    contents = [(folder / f"wavs/{name}.wav").read_bytes() for name in "aba"]
    columns = {"audio": [{"bytes": c, "path": "audio.wav"} for c in contents], "text": ["one", "two", "one"]}
    table = parquet(folder, columns)
    unpacked = folder.parent / "cache" / "unpacked"
    (pack,) = unpacked.iterdir()
    assert pack.read_bytes() == contents[0] + contents[1]
    assert [shards.digest_of(row.audio) for row in table.rows if row.audio] == [sha256(one) for one in contents]
    assert table.rows[0].id == table.rows[2].id != table.rows[1].id
    first = pack.stat().st_mtime_ns
    kept = read_rows(folder / "train.parquet", cache_dir=str(folder.parent / "cache"))
    assert kept == table
    assert [path.stat().st_mtime_ns for path in unpacked.iterdir()] == [first]
    pack.write_bytes(b"short")
    with pytest.raises(DataError, match="is damaged"):
        read_rows(folder / "train.parquet", cache_dir=str(folder.parent / "cache"))


def test_parquet_rows_of_one_inner_name_keep_apart(folder: Path) -> None:
    contents = [(folder / f"wavs/{name}.wav").read_bytes() for name in "abc"]
    table = parquet(
        folder, {"audio": [{"bytes": c, "path": "audio.wav"} for c in contents], "text": ["one", "two", "three"]}
    )
    assert sorted(texts(table).values()) == ["one", "three", "two"]
    assert len({row.id for row in table.rows}) == 3
    assert all(row.id.endswith("/audio") for row in table.rows)
    again = parquet(
        folder, {"audio": [{"bytes": c, "path": "audio.wav"} for c in contents[:2]], "text": ["one", "two"]}
    )
    assert texts(again).items() <= texts(table).items()  # rows that are added or taken away change no id


def test_a_parquet_column_without_values_does_not_hide_the_next(folder: Path) -> None:
    content = (folder / "wavs/a.wav").read_bytes()
    audio = [{"bytes": content, "path": "a.wav"}, {"bytes": content + b"x", "path": "b.wav"}]
    table = parquet(folder, {"audio": audio, "normalized_text": [None, "second"], "text": ["1st", "2nd"]})
    assert texts(table) == {"a": "1st", "b": "second"}


def test_parquet_columns_that_are_not_used_are_named(folder: Path) -> None:
    audio = [{"bytes": (folder / "wavs/a.wav").read_bytes(), "path": "a.wav"}]
    table = parquet(folder, {"audio": audio, "text": ["one"], "source": ["tara"], "duration": [1.5]})
    assert [(column.use, column.name, column.example) for column in table.columns] == [
        ("file", "`audio`", "a.wav"),
        ("text", "`text`", "one"),
        ("", "`source`", "tara"),
        ("", "`duration`", "1.5"),
    ]


def test_samples_in_a_parquet_table_are_read(folder: Path) -> None:
    wave = syllables(1.0)
    arrays = [wave.astype(float).tolist(), (wave * 32767).astype(int).tolist(), [["no"]]]
    audio = [{"array": a, "sampling_rate": RATE, "path": f"{i}.wav"} for i, a in enumerate(arrays[:1])]
    table = parquet(folder, {"audio": audio, "text": ["one"]})
    [row] = table.rows
    assert row.audio is not None
    samples, rate = soundfile.read(row.audio, dtype="float32")
    assert rate == RATE
    assert (samples == wave).all()
    whole = wav_of(arrays[1], RATE)
    assert isinstance(whole, bytes)
    assert soundfile.info(io.BytesIO(whole)).subtype == "PCM_16"
    assert "no sound" in str(wav_of(arrays[2], RATE))
    assert "sampling_rate" in str(wav_of(arrays[0], None))


def test_parquet_that_is_none_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "x.parquet").write_bytes(b"not parquet")
    with pytest.raises(TableError, match="no readable Parquet"):
        read_rows(tmp_path)


def test_the_demo_set_is_found_in_the_package() -> None:
    table = read_rows("package:demo")
    assert len(table.rows) > 50
    assert all(row.audio is not None and row.audio.is_file() for row in table.rows)
    assert len({row.speaker for row in table.rows}) >= 2


def test_the_voice_that_ships_is_one_real_speaker_with_punctuated_texts() -> None:
    table = read_rows("package:voice")
    assert {row.speaker for row in table.rows} == {"3080"}
    made = audit(table, DataConfig(path="package:voice"))
    assert (len(made.clips), len(made.findings)) == (29, 0)
    assert 90 < sum(clip.duration_s for clip in made.clips) < 100
    assert all(1 < clip.duration_s < 6.5 for clip in made.clips)  # phrases: a small net learns more from short clips
    folder = Path(str(table.rows[0].audio)).parents[1]
    for notice in ("README.md", "LICENSE.txt"):
        assert "(c) 2014 by Vassil Panayotov" in (folder / notice).read_text()
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 2_000_000


# ---------------------------------------------------------------- what cannot be read


@pytest.mark.parametrize(
    ("content", "reason", "message"),
    [
        (b"", "no_rows", "no rows"),
        (b"id|text\n", "no_rows", "no rows"),
        ("a|caf\xe9\nb|x\n".encode("latin-1"), "encoding", "line 1 is not UTF-8: byte 0xe9 at offset 5"),
        (b"RIFF1234WAVE", "encoding", "a RIFF file"),
        (b"PK\x03\x04xlsx", "encoding", "Excel"),
        ("a|x\n".encode("utf-16-le"), "encoding", "NUL"),
        (b"just some words\nand more words\n", "delimiter", "no column separator"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_by_file_and_line(
    content: bytes, reason: str, message: str, folder: Path
) -> None:
    with pytest.raises(TableError, match=message) as refusal:
        read(folder, content)
    assert refusal.value.reason == reason
    assert "metadata.csv" in refusal.value.message


def test_absent_tables_are_named(folder: Path) -> None:
    with pytest.raises(TableError, match=r"looked for metadata\.csv, .* its 3 recordings") as refusal:
        read_rows(folder)
    assert refusal.value.reason == "no_metadata"
    with pytest.raises(TableError, match="there is no"):
        read_rows(folder / "nowhere")
    with pytest.raises(TableError, match="no data called") as refusal:
        read_rows("package:nothing")
    assert refusal.value.hint == "there is package:demo, package:voice"


def test_several_tables_have_to_be_told_apart(folder: Path) -> None:
    (folder / "one.list").write_text("wavs/a.wav|x|en|one\n")
    (folder / "two.list").write_text("wavs/a.wav|x|en|one\n")
    with pytest.raises(TableError, match=r"several tables: one\.list, two\.list"):
        read_rows(folder)
    assert len(read_rows(folder / "two.list").rows) == 1


def test_a_format_that_is_set_is_not_guessed(folder: Path) -> None:
    with pytest.raises(TableError, match="header such as `audio_file"):
        read(folder, "a|one\n", format="f5_csv")


@pytest.mark.parametrize(
    ("written", "read_as"),
    [
        ('"He said ""no"" twice."', 'He said "no" twice.'),
        ('"a"" b"', 'a" b'),
        ('""', '""'),
        ('""""', '"'),
        ('"a""', '"a""'),
    ],
)
def test_doubled_quotes_are_undone_where_the_whole_field_is_quoted(written: str, read_as: str, folder: Path) -> None:
    assert texts(read(folder, f"a|{written}\nb|plain\nc|plain too\n"))["a"] == read_as


def test_many_quotes_in_a_row_do_not_hang_the_reader(folder: Path) -> None:
    """Matched by a pattern that tries every pair as the doubled one, they took minutes."""
    quotes = '"' * 200_001
    started = time.process_time()
    assert texts(read(folder, f"a|{quotes}x\nb|plain\nc|plain too\n"))["b"] == "plain"
    assert texts(read(folder, f"a|{quotes}\nb|plain\nc|plain too\n"))["b"] == "plain"
    assert time.process_time() - started < 20


def test_samples_with_an_impossible_rate_or_number_of_channels_are_told() -> None:
    assert isinstance(wav_of([0.1, 0.2], 16_000), bytes)
    for rate in (0, -1, 1 << 40, True, None):
        assert "sampling_rate" in str(wav_of([0.1, 0.2], rate))
    assert "no sound" in str(wav_of([[0.1] * 2000] * 100, 16_000))
