"""Parquet tables as Hugging Face writes them: the recordings lie inside. They are unpacked into the cache once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ttstrain.data import atomic
from ttstrain.data.readers.collect import Collector, stem
from ttstrain.data.readers.columns import AUDIO, ID, LANGUAGE, SPEAKER, TEXT, first_of, language_code, plain
from ttstrain.data.readers.rows import Row, RowTable, TableError

ROWS_AT_A_TIME = 256
ENDINGS = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"ID3": ".mp3", b"\xff\xfb": ".mp3"}


def read_parquet(files: Sequence[Path], root: Path, unpack_to: Path) -> RowTable:
    """Read tables with a column of audio (bytes, or a path below the folder) and a column of texts."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise TableError(
            "missing_package", "reading Parquet needs pyarrow", hint='pip install "ttstrain[parquet]"'
        ) from error

    collector = Collector(root, "parquet")
    for path in files:
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                columns = _columns(path, file.schema_arrow.names)
                number = 0
                for batch in file.iter_batches(ROWS_AT_A_TIME, columns=sorted(set(columns.values()))):
                    for values in batch.to_pylist():
                        number += 1
                        named = {key: values[column] for key, column in columns.items()}
                        _take(collector, f"{path.name}:{number}", named, unpack_to)
        except (pyarrow.ArrowException, OSError) as error:
            raise TableError("unreadable", f"`{path}` is no readable Parquet file: {error}") from error
    if not collector.rows and not collector.verdicts:
        raise TableError("no_rows", f"`{root}` holds Parquet files without rows")
    return collector.table()


def _columns(path: Path, names: Sequence[str]) -> dict[str, str]:
    actual = {plain(name): name for name in names}
    found = {
        key: actual[name]
        for key, wanted in {"audio": AUDIO, "text": TEXT, "id": ID, "speaker": SPEAKER, "language": LANGUAGE}.items()
        if (name := first_of(wanted, actual)) is not None
    }
    if missing := {"audio", "text"} - set(found):
        raise TableError(
            "columns",
            f"`{path}` has no column of {' or '.join(sorted(missing))}: it has {', '.join(names)}",
            hint=f"audio goes by {', '.join(AUDIO)}; text by {', '.join(TEXT)}",
        )
    return found


def _take(collector: Collector, source: str, values: Mapping[str, Any], unpack_to: Path) -> None:
    audio, text = values["audio"], values["text"]
    content = audio.get("bytes") if isinstance(audio, Mapping) else None
    name = (audio.get("path") if isinstance(audio, Mapping) else audio) or ""
    row = Row(
        id=_word(values, "id") or (stem(name) if isinstance(name, str) else "") or source,
        audio=None,
        text=text if isinstance(text, str) else "",
        speaker=_word(values, "speaker"),
        language=language_code(_word(values, "language")),
        source=source,
    )
    if isinstance(content, bytes):
        collector.rows.append(replace(row, audio=_unpacked(content, unpack_to)))
    elif isinstance(name, str):
        collector.locate(row, name)
    else:
        collector.judge(row, "skip", "bad_row", "the audio column holds neither bytes nor a path")


def _unpacked(content: bytes, folder: Path) -> Path:
    digest = hashlib.sha256(content).hexdigest()
    ending = next((ending for magic, ending in ENDINGS.items() if content.startswith(magic)), ".audio")
    path = folder / digest[:2] / f"{digest}{ending}"
    if not path.exists():
        atomic.write_bytes(path, content)
    return path


def _word(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    return str(value).strip() if isinstance(value, str | int) else ""
