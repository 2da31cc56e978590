"""Readers: from a path to rows. The format is detected from the content and reported."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from ttstrain import documents, registry
from ttstrain.contract.table import Action, Row, RowFinding, RowTable
from ttstrain.data.formats import AUTO
from ttstrain.data.location import cache_root
from ttstrain.data.readers.delimited import COMMON, read_delimited
from ttstrain.data.readers.folders import read_wav_txt, sound_files
from ttstrain.data.readers.jsonl import read_jsonl
from ttstrain.data.readers.lines import read_text
from ttstrain.data.readers.parquet import read_parquet
from ttstrain.data.readers.rows import TableError, printable
from ttstrain.data.readers.webdataset import NAME as WEBDATASET
from ttstrain.data.readers.webdataset import read_webdataset, shards_of
from ttstrain.data.shards import is_remote, local_or_remote
from ttstrain.errors import DataError
from ttstrain.places import expanded, refused_as
from ttstrain.shell import quoted

__all__ = ["Action", "Row", "RowFinding", "RowTable", "TableError", "printable", "read_rows"]

PACKAGE_DATA = "package:"
DELIMITED = "delimited"  # a table with separators; its content decides which
TABLE_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.tsv", "metadata.txt", "metadata.list")
TABLE_PATTERNS = ("*.list", "*.jsonl", "*.tsv", "*.csv")


@refused_as(DataError)
def read_rows(
    path: str | Path,
    format: str = "auto",  # noqa: A002  what the recipe calls it
    *,
    cache_dir: str | None = None,
    key: str = "data.path",
) -> RowTable:
    """Read the rows of a data set: a folder, a table, or `package:NAME`. `key` is the recipe's key for the path.

    Raises TableError, a DataError that names file and line, if there is nothing to read or it cannot be read.
    """
    named = local_or_remote(str(path))
    if format in (AUTO, WEBDATASET) and (tars := _shards(named, format)):
        return read_webdataset(tars, cache_root(cache_dir) / "shards")
    if is_remote(named):
        raise TableError(
            "no_data",
            f"`{printable(named)}` names no tar shards",
            hint="end the address with `.tar`, or name a folder of tars",
        )
    path = _package_folder(named) if named.startswith(PACKAGE_DATA) else expanded(named)
    if not path.exists():
        flag = " (or `--data PATH`)" if key == "data.path" else ""
        raise TableError(
            "no_data",
            f"there is no `{path}`",
            hint=f"say where it lies with `{key}=PATH`{flag}: a folder of recordings, or its table",
        )
    if path.is_dir():
        return _read_folder(path, format, cache_dir)
    return _read_table(path, path.parent, format, cache_dir)


def _package_folder(name: str | Path) -> Path:
    package = Path(str(importlib.resources.files("ttstrain")))
    folders = {f"{PACKAGE_DATA}{table.parent.name[1:]}": table.parent for table in package.glob("_*/metadata.jsonl")}
    if str(name) not in folders:
        there = f"there is {', '.join(sorted(folders))}"
        raise TableError("no_data", f"no data called `{name}` is in this installation", hint=there)
    return folders[str(name)]


def _read_folder(folder: Path, wanted: str, cache_dir: str | None) -> RowTable:
    if wanted == "wav_txt":
        return _read_pairs(folder)
    for known in registry.table_formats():
        if wanted == known.name or (wanted == "auto" and known.sniff(folder)):
            return known.read(folder)
    if wanted in ("auto", "parquet") and (files := sorted([*folder.glob("*.parquet"), *folder.glob("data/*.parquet")])):
        return read_parquet(files, folder, cache_root(cache_dir) / "unpacked")
    table = _find_table(folder)
    return _read_table(table, folder, wanted, cache_dir) if table is not None else _read_pairs(folder)


def _shards(named: str, wanted: str) -> list[Path]:
    """Return the tar shards that a data path names; a folder with a table is read by its table."""
    path = expanded(named)
    holds_tars = is_remote(named) or not path.is_dir() or next(path.glob("*.tar"), None) is not None
    if not holds_tars or (wanted == AUTO and not is_remote(named) and path.is_dir() and _names_rows(path)):
        return []
    return shards_of(named) or []


def _names_rows(folder: Path) -> bool:
    """Tell whether a folder holds anything else that names recordings."""
    if any(known.sniff(folder) for known in registry.table_formats()) or any(folder.glob("*.parquet")):
        return True
    return _find_table(folder) is not None


def tables_of(path: str | Path, format: str = "auto") -> list[Path]:  # noqa: A002  what the recipe calls it
    """Return the files that name all recordings and texts of a data set; none where they lie beside each other."""
    named = local_or_remote(str(path))
    if format in (AUTO, WEBDATASET) and (tars := _shards(named, format)):
        return [] if is_remote(named) else tars
    path = _package_folder(named) if named.startswith(PACKAGE_DATA) else expanded(named)
    if path.is_file():
        return [path]
    known = registry.table_formats()
    if format == "wav_txt" or any(format == one.name or (format == "auto" and one.sniff(path)) for one in known):
        return []
    if files := sorted([*path.glob("*.parquet"), *path.glob("data/*.parquet")]):
        return files
    table = _find_table(path)
    return [] if table is None else [table]


def _find_table(folder: Path) -> Path | None:
    for name in TABLE_NAMES:
        if (folder / name).is_file():
            return folder / name
    looked = (sorted(path for path in folder.glob(pattern) if path.is_file()) for pattern in TABLE_PATTERNS)
    for found in (*looked, *(known.tables_in(folder) for known in registry.line_formats())):
        if len(found) > 1:
            raise TableError(
                "ambiguous",
                f"`{folder}` holds several tables: {', '.join(path.name for path in found[:6])}",
                hint="name one of them as the data path",
            )
        if found:
            return found[0]
    return None


def _read_pairs(folder: Path) -> RowTable:
    table = read_wav_txt(folder)
    if not table.rows and not table.findings:
        looked = f"{', '.join(TABLE_NAMES)}, {', '.join(TABLE_PATTERNS)}, *.parquet"
        raise TableError(
            "no_metadata",
            f"`{folder}` has no table of texts: looked for {looked}, and for a .txt beside each of its "
            f"{len(sound_files(folder))} recordings",
            hint="write a `metadata.csv` with one line `name|what is said` per recording; long recordings are cut by "
            f"`ttstrain prepare {quoted(folder)} --cut NEW_FOLDER`",
        )
    return table


def _read_table(path: Path, root: Path, wanted: str, cache_dir: str | None) -> RowTable:
    if not path.is_file():
        raise TableError("not_a_file", f"`{path}` is neither a folder nor a file")
    text = None if wanted not in (AUTO, "jsonl") or path.suffix == ".parquet" else read_text(path)
    kind = wanted if wanted != AUTO else "parquet" if text is None else _kind(text)
    if kind == "jsonl":
        return read_jsonl(path, root, files_anywhere=not _is_audiofolder(path, text or ""), text=text)
    if kind == "parquet":
        return read_parquet([path], root, cache_root(cache_dir) / "unpacked")
    if kind == "audiofolder" and path.suffix in (".jsonl", ".json"):
        return read_jsonl(path, root, files_anywhere=False)
    if kind not in (DELIMITED, *COMMON, *(known.name for known in registry.line_formats())):
        raise TableError("format", f"`{path}` is a file, and `{kind}` is a format of folders")
    return read_delimited(path, root, None if kind == DELIMITED else kind)


def _kind(text: str) -> str:
    text = text.lstrip()
    return "jsonl" if text[:1] in ("{", "[") and _is_json(text) else DELIMITED


def _is_json(text: str) -> bool:
    if text.startswith("["):
        return text.rstrip().endswith("]")
    try:
        return isinstance(documents.parse(_first_line(text), numbers="any"), dict)
    except documents.DocumentError:
        return False


def _is_audiofolder(path: Path, text: str) -> bool:
    return path.name == "metadata.jsonl" and '"file_name"' in _first_line(text)


def _first_line(text: str) -> str:
    """Return what stands before the first LF, without a copy of the rest, which may be large."""
    end = text.find("\n")
    return text if end < 0 else text[:end]
