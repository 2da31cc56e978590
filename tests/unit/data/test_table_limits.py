"""Tables made to fill the memory, and places that are no tables: refused, with exit code 3."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ttstrain.data.readers import lines, parquet, read_rows
from ttstrain.data.readers.rows import TableError


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
    assert len(read_rows(path).verdicts) == 10  # ten megabytes are no harm
    monkeypatch.setattr(parquet, "MOST_UNPACKED", 1 << 20)
    with pytest.raises(TableError, match=r"unpacks `text` to [0-9,]+ times its size"):
        read_rows(path)


def test_a_value_that_many_rows_share_is_unpacked_for_few_of_them_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet

    path = written(tmp_path / "a.parquet", ["a" * 1_000_000] * 200, dictionary=True)
    asked = []
    really = pyarrow.parquet.ParquetFile.iter_batches

    def spy(self: object, batch_size: int, **options: object) -> object:
        asked.append(batch_size)
        return really(self, batch_size, **options)

    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "iter_batches", spy)
    monkeypatch.setattr(parquet, "MOST_AT_A_TIME", 10 << 20)
    assert len(read_rows(path).verdicts) == 200
    assert asked == [10]


def test_a_table_of_more_rows_than_fit_into_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "MOST_ROWS", 100)
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
