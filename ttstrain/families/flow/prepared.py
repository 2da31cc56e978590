"""Data sets that F5-TTS's tools have prepared: `raw.arrow` (or a folder `raw`), `duration.json`, `vocab.txt`.

Upstream stores texts after its front end: as lists of tokens with its extra spaces, Chinese as pinyin. Where the
`metadata.csv` that it was made from lies beside, its texts are taken instead, so that nothing is converted twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from ttstrain import documents
from ttstrain.contract.table import Row, RowTable
from ttstrain.data.readers.collect import Collector, stem
from ttstrain.data.readers.delimited import read_delimited
from ttstrain.data.readers.rows import TableError
from ttstrain.errors import DataError

ARROW, UNPACKED, DURATIONS, ORIGINAL = "raw.arrow", "raw", "duration.json", "metadata.csv"
_ROWS_AT_A_TIME = 256


class PreparedFolder:
    """A folder that upstream's tools prepared."""

    name = "f5_project"
    label = "project of F5-TTS, raw.arrow"

    def sniff(self, path: Path) -> bool:
        return is_prepared(path)

    def read(self, path: Path) -> RowTable:
        return read_prepared(path)


def is_prepared(folder: Path) -> bool:
    """Tell by its files whether upstream's tools prepared a folder."""
    return (folder / DURATIONS).is_file() and bool(_files(folder))


def read_prepared(folder: Path) -> RowTable:
    """Read prepared rows, each with the path of its recording.

    Rows that `duration.json` counts and the table lacks are findings. Raises TableError without pyarrow, or when the
    table cannot be read.
    """
    files = _files(folder)
    if not files:
        raise TableError("no_table", f"`{folder}` has neither `{ARROW}` nor `{UNPACKED}/*.arrow`")
    originals = _originals(folder)
    collector = Collector(folder, PreparedFolder.name, files_anywhere=True)
    read = _Read()
    for path in files:
        for values in _rows(path, read):
            read.count += 1
            _add_row(collector, f"{path.name}:{read.count}", values, originals)
    _compare_counts(collector, folder, read)
    return collector.table()


def _files(folder: Path) -> list[Path]:
    single = folder / ARROW
    return [single] if single.is_file() else sorted((folder / UNPACKED).glob("*.arrow"))


# ---------------------------------------------------------------- rows


@dataclass(slots=True)
class _Read:
    count: int = 0
    damage: str = ""  # why the table could not be read to its end


def _rows(path: Path, read: _Read) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError as error:
        raise TableError(
            "missing_package",
            f"reading `{path}` needs pyarrow",
            hint='pip install "ttstrain[parquet]"; or name the table it was made from, such as `metadata.csv`',
        ) from error
    try:
        with pyarrow.memory_map(str(path)) as source, pyarrow.ipc.open_stream(source) as stream:
            _check_columns(path, stream.schema.names)
            for batch in stream:
                batch.validate(full=True)  # a false offset would be read from outside the table
                for start in range(0, batch.num_rows, _ROWS_AT_A_TIME):
                    yield from batch.slice(start, _ROWS_AT_A_TIME).select(_columns(stream.schema.names)).to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:  # the last of a column's name
        read.damage = f"`{path.name}` cannot be read further: {error}"
        if read.count == 0:
            raise TableError(
                "unreadable",
                f"`{path}` cannot be read: {error}",
                hint="its writer was stopped; prepare it again, or name the table it was made from",
            ) from error


def _columns(names: list[str]) -> list[str]:
    return [name for name in ("audio_path", "text", "duration") if name in names]


def _check_columns(path: Path, names: list[str]) -> None:
    if missing := {"audio_path", "text"} - set(names):
        raise TableError(
            "columns",
            f"`{path}` has no column {' or '.join(sorted(missing))}: it has {', '.join(names)}",
            hint="sets of mels (`mel.arrow`) cannot be read: name the recordings' own table",
        )


def _add_row(collector: Collector, source: str, values: Mapping[str, Any], originals: Mapping[str, str]) -> None:
    name, stored = str(values["audio_path"] or ""), values["text"]
    tokens = [str(token) for token in stored] if isinstance(stored, list) else []
    text = "".join(tokens) if isinstance(stored, list) else str(stored or "")
    original = originals.get(_file_key(name))
    is_pinyin = any(len(token) > 1 for token in tokens)
    row = Row(
        id=stem(name) or source,
        audio=None,
        text=text if original is None else original,
        source=source,
        tokens=tuple(tokens) if original is None and is_pinyin else (),
    )
    collector.locate(row, name)


def _originals(folder: Path) -> dict[str, str]:
    """Map the recordings of the table that a project was made from to their texts; empty where it is not there."""
    path = folder / ORIGINAL
    if not path.is_file():
        return {}
    table = read_delimited(path, folder, None)
    return {_file_key(str(row.audio)): row.text for row in table.rows if row.audio is not None}


def _file_key(name: str) -> str:
    return PureWindowsPath(name).name.casefold()


# ---------------------------------------------------------------- counts


def _compare_counts(collector: Collector, folder: Path, read: _Read) -> None:
    path = folder / DURATIONS
    expected = _num_durations(path)
    if expected is None:
        _find(collector, path, f"`{DURATIONS}` holds no list of durations; they are measured anyway")
    elif expected > read.count:
        why = f"`{DURATIONS}` counts {expected:,} rows, the table has {read.count:,}: its writer was not finished"
        for number in range(read.count + 1, expected + 1):
            lost = Row(id=f"row-{number}", audio=None, text="", source=f"{path.name}:{number}")
            collector.add_finding(lost, "skip", "lost_row", read.damage or why)
    elif expected < read.count:
        _find(collector, path, f"the table has {read.count:,} rows and `{DURATIONS}` counts {expected:,}")
    elif read.damage:
        _find(collector, path, read.damage)


def _find(collector: Collector, path: Path, why: str) -> None:
    collector.add_finding(Row(id=path.name, audio=None, text="", source=path.name), "accept", "row_count", why)


def _num_durations(path: Path) -> int | None:
    try:
        read = documents.read_object(path, error=DataError, keys={"duration": list}, most_bytes=documents.MAX_TABLE)
    except DataError:
        return None
    return len(read["duration"])
