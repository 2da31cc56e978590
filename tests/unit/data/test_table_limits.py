"""Tables made to fill the memory, and places that are no tables: refused, with exit code 3."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ttstrain.data.readers import lines, parquet_limits, read_rows
from ttstrain.data.readers import parquet_pages as pages
from ttstrain.data.readers.rows import TableError


def write(path: Path, columns: dict[str, Any], **options: Any) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    options = {"compression": "zstd", "use_dictionary": False, **options}
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(columns), path, **options)


def written(path: Path, texts: list[str], *, dictionary: bool) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"audio": [f"{number}.wav" for number in range(len(texts))], "text": texts})
    pytest.importorskip("pyarrow.parquet").write_table(table, path, compression="zstd", use_dictionary=dictionary)
    return path


def test_a_small_parquet_file_that_unpacks_to_a_large_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "a.parquet", ["a" * 1_000_000] * 10, dictionary=False)
    assert path.stat().st_size < 100_000
    assert len(read_rows(path).findings) == 10  # ten megabytes are no harm
    monkeypatch.setattr(parquet_limits, "MOST_UNPACKED", 1 << 20)
    with pytest.raises(TableError, match=r"unpacks `text` to [0-9,]+ times its size"):
        read_rows(path)


def said_smaller(path: Path, number: int, instead: int, *, after: int = 0) -> None:
    """Let a Parquet file say another number, spelled in as many bytes as the true one."""
    true = bytearray()
    rest = 2 * number  # zigzag
    while rest >= 0x80:
        true.append(rest & 0x7F | 0x80)
        rest >>= 7
    true.append(rest)
    lie = bytearray(2 * instead >> 7 * place & 0x7F | 0x80 for place in range(len(true)))
    lie[-1] &= 0x7F
    content = path.read_bytes()
    at = content.rindex(bytes(true)) if not after else content.index(bytes(true), after)
    path.write_bytes(content[:at] + bytes(lie) + content[at + len(true) :])


def column(path: Path, name: str) -> Any:
    file = pytest.importorskip("pyarrow.parquet").ParquetFile(path)
    group = file.metadata.row_group(0)
    return next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema.startswith(name))


def test_what_a_parquet_file_says_of_its_size_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, texts in (("text", ["a" * 1_000_000] * 10), ("remark", ["a"] * 10)):
        path = tmp_path / f"{name}.parquet"
        write(path, {"audio": ["x.wav"] * 10, "text": texts, "remark": ["b" * 1_100_000] * 10})
        said_smaller(path, column(path, name).total_uncompressed_size, 100)
        assert column(path, name).total_uncompressed_size == 100
        monkeypatch.setattr(parquet_limits, "MOST_UNPACKED", 1 << 20)
        with pytest.raises(TableError, match=r"unpacks `(text|remark)` to [0-9,]+ times its size"):
            read_rows(path)


def test_a_page_that_says_it_is_of_gigabytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    texts = ["a" * 2_000_000, "a" * 2_000_000]
    write(path, {"audio": ["x.wav"] * 2, "text": texts}, data_page_size=1 << 30)
    chunk = column(path, "text")
    with path.open("rb") as file:
        (page,) = pages.pages(file.fileno(), chunk.data_page_offset, chunk.total_compressed_size)
    said_smaller(path, page.unpacked, 2**27 - 1, after=chunk.data_page_offset)  # as much as its bytes can spell
    monkeypatch.setattr(parquet_limits, "MOST_UNPACKED", 100 << 20)
    with pytest.raises(TableError, match="unpacks `text` to"):
        read_rows(path)


@pytest.mark.parametrize("texts", [["", "a" * 500, "ünï"], ["a"] * 5000, ["a" * 70_000] * 30])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("dictionary", [True, False])
def test_pages_are_counted_as_their_writer_counted_them(
    texts: list[str], version: str, dictionary: bool, tmp_path: Path
) -> None:
    path = tmp_path / "a.parquet"
    write(path, {"text": texts}, use_dictionary=dictionary, data_page_version=version, data_page_size=4096)
    chunk = column(path, "text")
    start = chunk.dictionary_page_offset if dictionary else chunk.data_page_offset
    with path.open("rb") as file:
        found = list(pages.pages(file.fileno(), start, chunk.total_compressed_size))
    assert sum(page.values for page in found) == len(texts)
    assert sum(page.packed for page in found) == chunk.total_compressed_size
    headers = chunk.total_uncompressed_size - sum(page.unpacked for page in found)
    assert 0 < headers < 2000 * len(found)  # which the writer counts too
    assert found[0].shares is dictionary


def test_prefixes_that_rows_share_are_unpacked_for_few_of_them_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    encodings = {"text": "DELTA_BYTE_ARRAY"}
    columns = {"audio": ["x.wav"] * 200, "text": ["a" * 1_000_000] * 200}
    write(path, columns, use_dictionary=False, column_encoding=encodings)
    assert asked_of(path, monkeypatch, at_a_time=10 << 20) == [10]


def test_a_list_that_is_stored_as_a_count_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    sound = [{"array": [0.0] * 2_000_000, "sampling_rate": 16000}]
    write(path, {"audio": sound, "text": ["nothing"]})
    assert path.stat().st_size < 5000
    monkeypatch.setattr(parquet_limits, "MOST_UNPACKED", 1 << 20)
    with pytest.raises(TableError, match=r"unpacks `audio.array.list.element` to [0-9,]+ times its size"):
        read_rows(path)


def test_lists_of_samples_are_read_a_few_rows_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    sound = [{"array": [0.1 * number] * 10_000, "sampling_rate": 16000} for number in range(30)]
    write(path, {"audio": sound, "text": ["nothing"] * 30})
    assert asked_of(path, monkeypatch, at_a_time=2_000_000) == [5]


def test_a_long_table_of_contents_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1" + bytes(17 << 20) + (17 << 20).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(TableError, match="table of contents of 17 MiB"):
        read_rows(path)


def asked_of(path: Path, monkeypatch: pytest.MonkeyPatch, *, at_a_time: int) -> list[int]:
    """Read a table and return how many rows of it were asked for at a time."""
    import pyarrow.parquet

    asked = []
    really = pyarrow.parquet.ParquetFile.iter_batches

    def spy(self: object, batch_size: int, **options: object) -> object:
        asked.append(batch_size)
        return really(self, batch_size, **options)

    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "iter_batches", spy)
    monkeypatch.setattr(parquet_limits, "MOST_AT_A_TIME", at_a_time)
    monkeypatch.setenv("TTSTRAIN_CACHE", str(path.parent / "cache"))
    read_rows(path)
    return asked


def test_a_value_that_many_rows_share_is_unpacked_for_few_of_them_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "a.parquet", ["a" * 1_000_000] * 200, dictionary=True)
    assert asked_of(path, monkeypatch, at_a_time=10 << 20) == [10]


def test_a_table_of_more_rows_than_fit_into_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_limits, "MOST_ROWS", 100)
    monkeypatch.setattr(lines, "MOST_ROWS", 100)
    path = written(tmp_path / "a.parquet", ["hello"] * 101, dictionary=True)
    with pytest.raises(TableError, match="more than 100 rows"):
        read_rows(path)
    table = tmp_path / "metadata.csv"
    table.write_text("a|hello\n" * 101, encoding="utf-8")
    with pytest.raises(TableError, match="more than 100 lines"):
        read_rows(table)


def test_a_text_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    for name in ("metadata.csv", "metadata.jsonl", "a.list"):
        path = tmp_path / name
        with path.open("wb") as file:
            file.write(b"a|b\n")
            file.truncate(1 << 40)
        with pytest.raises(TableError, match="larger than 1,024 MiB"):
            read_rows(path)


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: data[:40] + b"\xff" * 40 + data[80:]]
)
def test_a_damaged_parquet_file_is_no_defect(damage: object, tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", ["hello", "there"] * 50, dictionary=True)
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(TableError):
        read_rows(path)


def test_a_pipe_and_a_device_are_no_tables(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metadata.csv")
    for path in (tmp_path / "metadata.csv", Path("/dev/zero")):
        with pytest.raises(TableError, match="neither a folder nor a file"):
            read_rows(path)
