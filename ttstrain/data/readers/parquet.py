"""Parquet tables as Hugging Face writes them, with the recordings inside; these are unpacked into the cache once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ttstrain.contract.table import Row, RowTable
from ttstrain.data import atomic
from ttstrain.data.location import CACHE_HINT
from ttstrain.data.readers.collect import Collector, stem
from ttstrain.data.readers.columns import AUDIO, ID, LANGUAGE, SPEAKER, TEXT, first_of, language_code, plain
from ttstrain.data.readers.ids import Place
from ttstrain.data.readers.parquet_limits import read_footer, rows_at_a_time
from ttstrain.data.readers.parquet_pages import DamagedPageError
from ttstrain.data.readers.rows import TableError
from ttstrain.data.readers.samples import wav_of
from ttstrain.data.readers.uses import Uses
from ttstrain.data.shards import identity, path_of
from ttstrain.digest import sha256
from ttstrain.errors import DataError
from ttstrain.places import refused_as

SHORT_DIGEST = 12  # hex digits
MANY_ROWS = 10_000  # of a table, from which on its recordings are unpacked into one file
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
    uses = Uses()
    for path in files:
        try:
            footer = read_footer(path)
            with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
                columns = _columns(path, file.schema_arrow.names)
                others = _others(file, columns)
                at_a_time = rows_at_a_time(path, file, footer, {*columns.all, *others})
                _look_at_others(file, others, uses, at_a_time=at_a_time)
                with _store(path, unpack_to, file.metadata.num_rows) as unpack:
                    number = 0
                    for batch in file.iter_batches(at_a_time, columns=columns.all):
                        for values in batch.to_pylist():
                            number += 1
                            _add_row(collector, f"{path.name}:{number}", values, columns, uses=uses, unpack=unpack)
        except (pyarrow.ArrowException, DamagedPageError, OSError, MemoryError, UnicodeDecodeError) as error:
            raise TableError("unreadable", f"`{path}` is no readable Parquet file: {error}") from error
    if not collector.rows and not collector.findings:
        raise TableError("no_rows", f"`{root}` holds Parquet files without rows")
    collector.columns = uses.columns()
    return collector.table()


@dataclass(frozen=True, slots=True)
class _Columns:
    audio: str
    texts: tuple[str, ...]  # the first that is not blank is the text
    others: Mapping[str, str]  # id, speaker, language -> column

    @property
    def all(self) -> list[str]:
        return sorted({self.audio, *self.texts, *self.others.values()})


def _columns(path: Path, names: Sequence[str]) -> _Columns:
    actual = {plain(name): name for name in names}
    audio = first_of(AUDIO, actual)
    texts = tuple(actual[name] for name in TEXT if name in actual)
    if audio is None or not texts:
        missing = " or ".join(kind for kind, found in (("audio", audio), ("text", texts)) if not found)
        raise TableError(
            "columns",
            f"`{path}` has no column of {missing}: it has {', '.join(names)}",
            hint=f"audio goes by {', '.join(AUDIO)}; text by {', '.join(TEXT)}",
        )
    others = {
        key: actual[name]
        for key, wanted in {"id": ID, "speaker": SPEAKER, "language": LANGUAGE}.items()
        if (name := first_of(wanted, actual)) is not None
    }
    return _Columns(actual[audio], texts, others)


def _others(file: Any, columns: _Columns) -> list[str]:
    """Return the names of unused columns of text or numbers."""
    from pyarrow import types

    simple = (types.is_string, types.is_large_string, types.is_integer, types.is_floating, types.is_dictionary)
    fields = [field for field in file.schema_arrow if field.name not in columns.all]
    return [field.name for field in fields if any(test(field.type) for test in simple)]


def _look_at_others(file: Any, others: list[str], uses: Uses, *, at_a_time: int) -> None:
    """Record example values of unused columns, from the first rows."""
    if others and (batch := next(iter(file.iter_batches(at_a_time, columns=others)), None)) is not None:
        for values in batch.to_pylist():
            uses.see(values, {})
    uses.see(dict.fromkeys(file.schema_arrow.names), {})


def _add_row(
    collector: Collector,
    source: str,
    values: Mapping[str, Any],
    columns: _Columns,
    *,
    uses: Uses,
    unpack: Callable[[bytes], tuple[Path, str]],
) -> None:
    uses.see(values, {})
    uses.took("file", columns.audio)
    audio = values[columns.audio]
    column = next((c for c in columns.texts if isinstance(values[c], str) and values[c].strip()), None)
    uses.took("text", column)
    for key, name in columns.others.items():
        uses.took(key, name)
    content = _content(audio) if isinstance(audio, Mapping) else None
    name = (audio.get("path") if isinstance(audio, Mapping) else audio) or ""
    row = Row(
        id=_word(values, columns.others.get("id")) or (stem(name) if isinstance(name, str) else "") or source,
        audio=None,
        text="" if column is None else values[column],
        speaker=_word(values, columns.others.get("speaker")),
        language=language_code(_word(values, columns.others.get("language"))),
        source=source,
    )
    if isinstance(content, bytes):
        path, digest = unpack(content)
        inner = PurePosixPath(name).parent.parts if isinstance(name, str) else ()
        collector.add(replace(row, audio=path), Place((digest[:SHORT_DIGEST], *inner)))
    elif isinstance(content, str):
        collector.add_finding(row, "skip", "bad_row", content)
    elif isinstance(name, str):
        collector.locate(row, name)
    else:
        collector.add_finding(row, "skip", "bad_row", "the audio column holds neither bytes nor a path")


def _content(audio: Mapping[str, Any]) -> bytes | str | None:
    """Return a recording's file content, or (str) what is wrong with its samples; None if the row has neither."""
    if isinstance(audio.get("bytes"), bytes):
        content: bytes = audio["bytes"]
        return content
    return None if audio.get("array") is None else wav_of(audio["array"], audio.get("sampling_rate"))


@contextmanager
def _store(table: Path, folder: Path, num_rows: int) -> Iterator[Callable[[bytes], tuple[Path, str]]]:
    """Yield what unpacks a recording and returns its path and digest: into files, or those of many rows into one."""
    if num_rows < MANY_ROWS:
        yield lambda content: _unpacked(content, folder)
        return
    pack = _Pack(folder / f"{sha256(f'{table.absolute()} {identity(table)}')[: SHORT_DIGEST * 2]}.pack")
    try:
        yield pack.add
        pack.complete()
    finally:
        pack.close()


class _Pack:
    """Recordings one after the other in a file, each once; the file appears when it is complete."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size = 0
        self._places: dict[str, Path] = {}  # digest -> part
        self._part = atomic.temporary_beside(path, end=atomic.PART)
        with self._refused():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = None if path.exists() else self._part.open("xb")

    def _refused(self) -> AbstractContextManager[None]:
        return refused_as(DataError, path=self.path, hint=CACHE_HINT)

    def add(self, content: bytes) -> tuple[Path, str]:
        digest = sha256(content)
        if digest not in self._places:
            if self._file is not None:
                with self._refused():
                    self._file.write(content)
            self._places[digest] = path_of(self.path, self._size, len(content), _ending(content)[1:])
            self._size += len(content)
        return self._places[digest], digest

    def complete(self) -> None:
        """Give the file its name. Raises DataError where the one that was there has another size."""
        with self._refused():
            if self._file is not None:
                self._file.close()
                self._part.replace(self.path)
            elif self.path.stat().st_size != self._size:
                raise DataError(f"`{self.path}` is damaged", hint="remove it: the recordings are unpacked again")

    def close(self) -> None:
        """Remove what is not complete."""
        if self._file is not None:
            with suppress(OSError):  # of a full disk: the error was raised before
                self._file.close()
            self._part.unlink(missing_ok=True)


def _ending(content: bytes) -> str:
    return next((ending for magic, ending in ENDINGS.items() if content.startswith(magic)), ".audio")


def _unpacked(content: bytes, folder: Path) -> tuple[Path, str]:
    digest = sha256(content)
    ending = _ending(content)
    path = folder / digest[:2] / f"{digest}{ending}"
    if not path.exists():
        with refused_as(DataError, path=path, hint=CACHE_HINT):
            atomic.write_bytes(path, content)
    return path, digest


def _word(values: Mapping[str, Any], column: str | None) -> str:
    value = None if column is None else values[column]
    return str(value).strip() if isinstance(value, str | int) else ""
